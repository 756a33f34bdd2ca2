// FakeReactor: a Reactor without a ring. The test sees what was submitted and completes it, with
// the results and in the order it wants.
//
// Thread: submissions and completions on one thread, as with a real one; post() and break_down()
// from any. Memory: nothing is allocated once `capacity` submissions have been in flight.
#pragma once

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "reactor/reactor.h"

namespace ashlar::test {

class FakeReactor final : public Reactor {
public:
    struct Submission {
        std::uint32_t opcode = 0;
        FileSlot file = 0;               // io_command
        int fd = -1;                     // control_command
        kernel::abi::IoCmd io{};         // io_command
        kernel::abi::CtrlCmd control{};  // control_command
        Operation* operation = nullptr;
    };

    explicit FakeReactor(std::size_t capacity = 8192) { pending_.reserve(capacity); }

    // ---- What a test asks and does ----

    // Submitted and not completed yet; in order of submission until something completes.
    [[nodiscard]] const std::vector<Submission>& pending() const noexcept { return pending_; }
    [[nodiscard]] std::uint64_t submissions() const noexcept { return submissions_; }
    [[nodiscard]] const std::vector<int>& files() const noexcept { return files_; }  // -1: free
    [[nodiscard]] int files_registered() const noexcept {
        return static_cast<int>(std::ranges::count_if(files_, [](int fd) { return fd >= 0; }));
    }

    // The pending command of a tag; null when there is none.
    [[nodiscard]] const Submission* find(std::uint16_t queue, std::uint16_t tag) const noexcept {
        const auto at = std::ranges::find_if(pending_, [&](const Submission& submission) {
            return submission.io.q_id == queue && submission.io.tag == tag;
        });
        return at == pending_.end() ? nullptr : &*at;
    }
    // Completes one; what it submits in turn is found at the end of pending().
    void complete(std::size_t place, std::int32_t result) {
        Operation* operation = pending_.at(place).operation;
        pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(place));
        operation->complete(result, 0);
    }
    // The same by tag. False when that tag has nothing pending.
    [[nodiscard]] bool complete_tag(std::uint16_t queue, std::uint16_t tag, std::int32_t result) {
        const Submission* submission = find(queue, tag);
        if (submission == nullptr) return false;
        complete(static_cast<std::size_t>(submission - pending_.data()), result);
        return true;
    }
    void refuse_files(int code) noexcept { refuse_files_ = code; }
    // From now on run_once answers this errno.
    void break_down(int code) {
        const std::lock_guard lock(mutex_);
        broken_ = code;
        changed_.notify_all();
    }

    // ---- Reactor ----

    Result<FileSlot> register_file(int fd) override {
        if (refuse_files_ != 0) {
            return std::unexpected(Error{.operation = "register file", .code = refuse_files_});
        }
        files_.push_back(fd);
        return static_cast<FileSlot>(files_.size() - 1);
    }
    void unregister_file(FileSlot file) noexcept override { files_.at(file) = -1; }

    void io_command(FileSlot file, std::uint32_t opcode, const kernel::abi::IoCmd& command,
                    Operation& operation) noexcept override {
        submit({.opcode = opcode, .file = file, .io = command, .operation = &operation});
    }
    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override {
        submit({.opcode = opcode, .fd = fd, .control = command, .operation = &operation});
    }

    // Runs what was posted, after waiting for it. Completions are the test's business.
    int run_once(std::optional<std::chrono::milliseconds> timeout) noexcept override {
        ++rounds_;
        std::vector<std::move_only_function<void()>> calls;
        {
            std::unique_lock lock(mutex_);
            const auto wanted = [&] { return broken_ != 0 || !posted_.empty(); };
            if (!timeout) {
                changed_.wait(lock, wanted);
            } else if (!changed_.wait_for(lock, *timeout, wanted)) {
                return ETIME;
            }
            if (posted_.empty()) return broken_;
            calls.swap(posted_);
        }
        for (auto& call : calls) call();
        return 0;
    }
    void post(std::move_only_function<void()> call) override {
        const std::lock_guard lock(mutex_);
        posted_.push_back(std::move(call));
        changed_.notify_all();
    }

private:
    void submit(const Submission& submission) {
        ++submissions_;
        pending_.push_back(submission);
    }

    std::vector<Submission> pending_;
    std::uint64_t submissions_ = 0;
    std::vector<int> files_;
    int refuse_files_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::move_only_function<void()>> posted_;  // guarded by mutex_
    int broken_ = 0;                                       // guarded by mutex_
};

}  // namespace ashlar::test
