// FakeReactor: a Reactor without a ring. The test sees what was submitted and completes it, with
// the results and in the order it wants.
//
// Thread: submissions and completions on one thread, as with a real one; post(), wake() and
// break_down() from any. Memory: nothing is allocated once `capacity` have been in flight.
#pragma once

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "reactor/reactor.h"

namespace ashlar::test {

class FakeReactor : public Reactor {
public:
    // One submission; which fields mean something depends on its kind.
    struct Pending {
        enum class Kind : std::uint8_t {
            io_command,
            silent_io_command,  // completes for nobody: complete() only takes it away
            batch_command,
            batch_fetch,
            control_command,
            submission,
        };
        Kind kind = Kind::io_command;
        std::uint32_t opcode = 0;
        FileSlot file = 0;                               // of I/O and batch commands
        int fd = -1;                                     // control_command
        kernel::abi::IoCmd io{};                         // io_command, silent_io_command
        std::uint64_t registration = 0;                  // io_command
        kernel::abi::CtrlCmd control{};                  // control_command
        kernel::abi::BatchIo batch{};                    // batch_command, batch_fetch
        const std::byte* elements = nullptr;             // batch_command
        std::uint16_t group = 0;                         // batch_fetch
        const ashlar::Submission* submission = nullptr;  // submission
        Operation* operation = nullptr;                  // null if silent
        bool cancelled = false;                          // its end was asked for
    };
    using Kind = Pending::Kind;

    explicit FakeReactor(std::size_t capacity = 8192) { pending_.reserve(capacity); }

    // ---- What a test asks and does ----

    // Submitted and not completed yet; in order of submission.
    [[nodiscard]] const std::vector<Pending>& pending() const noexcept { return pending_; }
    [[nodiscard]] std::uint64_t submissions() const noexcept { return submissions_; }
    [[nodiscard]] const std::vector<int>& files() const noexcept { return files_; }  // -1: free
    [[nodiscard]] int files_registered() const noexcept {
        return static_cast<int>(std::ranges::count_if(files_, [](int fd) { return fd >= 0; }));
    }
    [[nodiscard]] auto buffers_reserved() const noexcept {
        return std::ranges::count(buffers_, true);
    }
    [[nodiscard]] auto groups_open() const noexcept {
        return std::ranges::count_if(groups_, [](const Group& group) { return group.count > 0; });
    }
    // Buffers of a group that are the kernel's to fill.
    [[nodiscard]] std::size_t buffers_free(std::uint16_t group) const {
        return groups_.at(group).free.size();
    }
    [[nodiscard]] bool closed() const noexcept { return closed_; }

    // The first of a kind; null when there is none.
    [[nodiscard]] const Pending* find(Kind kind) const noexcept {
        return first([&](const Pending& one) { return one.kind == kind; });
    }
    // The command of a tag that will complete; null when there is none.
    [[nodiscard]] const Pending* find(std::uint16_t queue, std::uint16_t tag) const noexcept {
        return first([&](const Pending& one) {
            return one.kind == Kind::io_command && one.io.q_id == queue && one.io.tag == tag;
        });
    }
    [[nodiscard]] std::size_t place_of(const Pending& one) const noexcept {
        return static_cast<std::size_t>(&one - pending_.data());
    }

    // Completes one; what it submits in turn is found at the end of pending(). With
    // completion::more among the flags it stays.
    void complete(std::size_t place, std::int32_t result, std::uint32_t flags = 0) {
        Operation* operation = pending_.at(place).operation;
        if ((flags & completion::more) == 0) {
            pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(place));
        }
        if (operation != nullptr) operation->complete(result, flags);
    }
    // The same by tag. False when that tag has nothing pending.
    [[nodiscard]] bool complete_tag(std::uint16_t queue, std::uint16_t tag, std::int32_t result) {
        const Pending* one = find(queue, tag);
        if (one == nullptr) return false;
        complete(place_of(*one), result);
        return true;
    }
    // The same for the first of a kind. False when there is none.
    [[nodiscard]] bool complete_first(Kind kind, std::int32_t result, std::uint32_t flags = 0) {
        const Pending* one = find(kind);
        if (one == nullptr) return false;
        complete(place_of(*one), result, flags);
        return true;
    }
    // The batch fetch delivers tags, in the next buffer of its group.
    template <class Tags>
    void deliver(const Tags& tags, std::uint32_t flags = completion::more) {
        const Pending* fetch = find(Kind::batch_fetch);
        if (fetch == nullptr) throw std::runtime_error("nothing is fetched");
        Group& group = groups_.at(fetch->group);
        if (group.free.empty()) throw std::runtime_error("no buffer was given back");
        const std::uint16_t buffer = group.free.front();
        group.free.erase(group.free.begin());
        const std::size_t size = group.memory.size() / group.count;
        const std::size_t bytes = std::size(tags) * sizeof(std::uint16_t);
        if (bytes > size) throw std::runtime_error("more tags than a buffer holds");
        std::byte* to = group.memory.data() + buffer * size;
        for (const std::uint16_t tag : tags) {
            std::memcpy(to, &tag, sizeof(tag));
            to += sizeof(tag);
        }
        complete(place_of(*fetch), static_cast<std::int32_t>(bytes),
                 flags | completion::has_buffer | std::uint32_t{buffer} << 16);
    }
    void deliver(std::initializer_list<std::uint16_t> tags,
                 std::uint32_t flags = completion::more) {
        deliver<std::initializer_list<std::uint16_t>>(tags, flags);
    }
    // Takes away what completes for nobody.
    void drop_silent() noexcept {
        std::erase_if(pending_,
                      [](const Pending& one) { return one.kind == Kind::silent_io_command; });
    }
    // What happens before a round's system call.
    void begin_round() noexcept {
        ++rounds_;
        run_hooks();
    }
    void refuse_files(int code) noexcept { refuse_files_ = code; }
    void refuse_buffers(int code) noexcept { refuse_buffers_ = code; }
    void refuse_groups(int code) noexcept { refuse_groups_ = code; }
    // From now on run_once answers this errno.
    void break_down(int code) {
        const std::lock_guard lock(mutex_);
        broken_ = code;
        changed_.notify_all();
    }

    // ---- Reactor ----

    Result<FileSlot> register_file(int fd) override {
        if (refuse_files_ != 0) return refusal("register file", refuse_files_);
        files_.push_back(fd);
        return static_cast<FileSlot>(files_.size() - 1);
    }
    void unregister_file(FileSlot file) noexcept override {
        ASHLAR_ASSERT(!closed_ && files_.at(file) >= 0);
        files_.at(file) = -1;
    }

    Result<std::uint16_t> reserve_buffers(unsigned count) override {
        if (refuse_buffers_ != 0) return refusal("register buffers", refuse_buffers_);
        buffers_.insert(buffers_.end(), count, true);
        return static_cast<std::uint16_t>(buffers_.size() - count);
    }
    void release_buffers(std::uint16_t first, unsigned count) noexcept override {
        ASHLAR_ASSERT(!closed_ && first + count <= buffers_.size());
        for (unsigned i = first; i < first + count; ++i) {
            ASHLAR_ASSERT(buffers_[i]);
            buffers_[i] = false;
        }
    }

    Result<std::uint16_t> open_buffer_group(std::span<std::byte> memory, unsigned count) override {
        if (refuse_groups_ != 0) return refusal("provide buffers", refuse_groups_);
        Group& group = groups_.emplace_back(Group{.memory = memory, .count = count, .free = {}});
        group.free.reserve(count + 1);  // one more: a test sees what is given back twice
        for (unsigned i = 0; i < count; ++i) group.free.push_back(static_cast<std::uint16_t>(i));
        return static_cast<std::uint16_t>(groups_.size() - 1);
    }
    void recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept override {
        std::vector<std::uint16_t>& free = groups_.at(group).free;
        ASHLAR_ASSERT(std::ranges::find(free, buffer) == free.end());
        free.push_back(buffer);
    }
    void close_buffer_group(std::uint16_t group) noexcept override {
        ASHLAR_ASSERT(groups_.at(group).count > 0);
        groups_.at(group).count = 0;
    }

    void io_command(const IoCommand& command, Operation& operation) noexcept override {
        add({.kind = Kind::io_command,
             .opcode = command.opcode,
             .file = command.file,
             .io = command.command,
             .registration = command.registration,
             .operation = &operation});
    }
    void silent_io_command(const IoCommand& command) noexcept override {
        add({.kind = Kind::silent_io_command,
             .opcode = command.opcode,
             .file = command.file,
             .io = command.command});
    }
    void batch_command(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                       const std::byte* elements, Operation& operation) noexcept override {
        add({.kind = Kind::batch_command,
             .opcode = opcode,
             .file = file,
             .batch = command,
             .elements = elements,
             .operation = &operation});
    }
    void batch_fetch(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                     std::uint16_t group, Operation& operation) noexcept override {
        add({.kind = Kind::batch_fetch,
             .opcode = opcode,
             .file = file,
             .batch = command,
             .group = group,
             .operation = &operation});
    }
    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override {
        add({.kind = Kind::control_command,
             .opcode = opcode,
             .fd = fd,
             .control = command,
             .operation = &operation});
    }
    void submit(const ashlar::Submission& submission, Operation& operation) noexcept override {
        add({.kind = Kind::submission, .submission = &submission, .operation = &operation});
    }
    // Only noted: the test completes it when it wants.
    void cancel(Operation& operation) noexcept override {
        ASHLAR_ASSERT(!closed_);
        for (Pending& one : pending_) one.cancelled |= one.operation == &operation;
    }

    // Runs the hooks, and what was posted or woken after waiting for it. Completions are the test's
    // business.
    int run_once(std::optional<std::chrono::milliseconds> timeout) noexcept override {
        begin_round();
        std::vector<std::move_only_function<void()>> calls;
        Woken* woken = nullptr;
        {
            std::unique_lock lock(mutex_);
            const auto wanted = [&] {
                return broken_ != 0 || !posted_.empty() || first_woken_ != nullptr;
            };
            if (!timeout) {
                changed_.wait(lock, wanted);
            } else if (!changed_.wait_for(lock, *timeout, wanted)) {
                return ETIME;
            }
            if (posted_.empty() && first_woken_ == nullptr) return broken_;
            calls.swap(posted_);
            woken = std::exchange(first_woken_, nullptr);
            last_woken_ = nullptr;
        }
        while (woken != nullptr) {
            Woken* next = woken->next_woken;
            woken->woken();
            woken = next;
        }
        for (auto& call : calls) call();
        return 0;
    }
    void wake(Woken& woken) noexcept override {
        const std::lock_guard lock(mutex_);
        woken.next_woken = nullptr;
        (last_woken_ == nullptr ? first_woken_ : last_woken_->next_woken) = &woken;
        last_woken_ = &woken;
        changed_.notify_all();
    }
    void post(std::move_only_function<void()> call) override {
        const std::lock_guard lock(mutex_);
        posted_.push_back(std::move(call));
        changed_.notify_all();
    }
    void close() noexcept override {
        closed_ = true;
        pending_.clear();
    }

private:
    struct Group {
        std::span<std::byte> memory;
        unsigned count = 0;  // 0: closed
        std::vector<std::uint16_t> free;
    };

    static std::unexpected<Error> refusal(const char* operation, int code) {
        return std::unexpected(Error{.operation = operation, .code = code});
    }
    template <class Matches>
    [[nodiscard]] const Pending* first(Matches matches) const noexcept {
        const auto at = std::ranges::find_if(pending_, matches);
        return at == pending_.end() ? nullptr : &*at;
    }
    void add(const Pending& one) {
        ASHLAR_ASSERT(!closed_);
        ++submissions_;
        pending_.push_back(one);
    }

    std::vector<Pending> pending_;
    std::uint64_t submissions_ = 0;
    bool closed_ = false;
    std::vector<int> files_;
    std::vector<bool> buffers_;
    std::vector<Group> groups_;
    int refuse_files_ = 0;
    int refuse_buffers_ = 0;
    int refuse_groups_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::move_only_function<void()>> posted_;  // guarded by mutex_
    Woken* first_woken_ = nullptr;                         // guarded by mutex_
    Woken* last_woken_ = nullptr;                          // guarded by mutex_
    int broken_ = 0;                                       // guarded by mutex_
};

}  // namespace ashlar::test
