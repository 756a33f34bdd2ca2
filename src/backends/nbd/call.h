// Call: what is asked of the server, from the moment it is asked until its answer.
#pragma once

#include <coroutine>
#include <cstdint>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

#include "backends/nbd/protocol.h"

namespace ashlar::nbd {

// Lies in the frame of whoever awaits it. Moves from one connection to the next when one is lost.
struct Call {
    Command command = Command::read;
    std::uint16_t flags = 0;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
    Buffer buffer{};  // of a read or a write

    // The wire's, for one connection.
    Coverage coverage{};
    int error = 0;            // the first that a chunk told
    std::uint8_t errors = 0;  // chunks that told one
    bool sent = false;        // all of it: the answer may come, and the buffer may go
    Call* next_unsent = nullptr;

    // The link's.
    std::uint64_t cookie = 0;
    Call* before = nullptr;  // in the order they were asked
    Call* after = nullptr;
    IoResult result{};
    std::coroutine_handle<> waiter = nullptr;
};

// The calls that have no answer yet: in order, and by cookie. A cookie that was used is not used
// again for as long as can be, so that a late answer finds nothing.
class Calls {
public:
    void add(Call& call) {
        if (free_.empty()) {
            free_.push_back(static_cast<std::uint32_t>(slots_.size()));
            slots_.emplace_back();
            free_.reserve(slots_.size());
        }
        const std::uint32_t slot = free_.back();
        free_.pop_back();
        slots_[slot] = &call;
        call.cookie = ++uses_ << 32 | slot;
        call.before = last_;
        call.after = nullptr;
        (last_ != nullptr ? last_->after : first_) = &call;
        last_ = &call;
    }
    void remove(Call& call) noexcept {
        const auto slot = static_cast<std::uint32_t>(call.cookie);
        slots_[slot] = nullptr;
        free_.push_back(slot);
        (call.before != nullptr ? call.before->after : first_) = call.after;
        (call.after != nullptr ? call.after->before : last_) = call.before;
    }
    // Null: no call of that cookie is without an answer.
    [[nodiscard]] Call* find(std::uint64_t cookie) const noexcept {
        const auto slot = static_cast<std::uint32_t>(cookie);
        Call* const call = slot < slots_.size() ? slots_[slot] : nullptr;
        return call != nullptr && call->cookie == cookie ? call : nullptr;
    }
    // The one that was asked first; the others by Call::after.
    [[nodiscard]] Call* first() const noexcept { return first_; }

private:
    std::vector<Call*> slots_;
    std::vector<std::uint32_t> free_;
    std::uint64_t uses_ = 0;
    Call* first_ = nullptr;
    Call* last_ = nullptr;
};

}  // namespace ashlar::nbd
