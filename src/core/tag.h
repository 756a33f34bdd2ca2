// Tag: one slot of a queue, and its state machine.
//
//   home -> with_kernel -> serving -> with_kernel -> ... -> home
//
// home: nobody uses it. with_kernel: a fetch (or commit-and-fetch) is submitted; the kernel may
// write the buffer. serving: a request is ours; the session may use the buffer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <ashlar/io.h>
#include <ashlar/task.h>
#include <ashlar/types.h>

#include "base/assert.h"
#include "kernel/abi.h"
#include "reactor/operation.h"

namespace ashlar {

class Queue;

enum class TagState : std::uint8_t { home, with_kernel, serving };

class Tag final : public Operation {
public:
    Tag(Queue& queue, std::uint16_t index, std::byte* buffer, std::byte* arena,
        std::size_t arena_size) noexcept
        : queue_(queue), buffer_(buffer), index_(index), arena_(arena, arena_size) {}
    Tag(const Tag&) = delete;
    Tag& operator=(const Tag&) = delete;
    ~Tag() = default;

    void complete(std::int32_t result, std::uint32_t flags) noexcept override;

    // The transitions; each asserts that it is allowed.
    void submitted() noexcept {
        ASHLAR_ASSERT(state_ != TagState::with_kernel);
        state_ = TagState::with_kernel;
    }
    void returned() noexcept {
        ASHLAR_ASSERT(state_ == TagState::with_kernel);
        state_ = TagState::serving;
    }
    void retired() noexcept {
        ASHLAR_ASSERT(state_ == TagState::serving);
        state_ = TagState::home;
    }

    [[nodiscard]] TagState state() const noexcept { return state_; }
    [[nodiscard]] std::uint16_t index() const noexcept { return index_; }
    [[nodiscard]] std::byte* buffer() const noexcept { return buffer_; }
    [[nodiscard]] Queue& queue() const noexcept { return queue_; }

    // Used by Queue while serving.
    Request request;               // what the kernel asked for
    Request flush;                 // what follows it when FUA is emulated
    kernel::abi::IoCmd command{};  // as last submitted, to submit again when the kernel says so
    std::uint32_t opcode = 0;
    bool flush_after = false;  // FUA that the engine emulates
    Task<> task{IoResult{}};   // when the session did not finish at once

    [[nodiscard]] Io& io() noexcept { return io_; }

private:
    Queue& queue_;
    std::byte* buffer_;
    std::uint16_t index_;
    TagState state_ = TagState::home;
    Arena arena_;
    Io io_{arena_};
};

}  // namespace ashlar
