// GroupCommit: flushes that wait together share one sync, and a failed one is not forgotten. For
// backends and layers that keep something in a file:
//
//     Task<> flush(Io& io) {
//         return commit_.flush(io, [this](Io& on) noexcept { return on.fdatasync(sync_fd_); });
//     }
//
// sync_fd_ is a description of the file that this session has opened for itself: the kernel reports
// what it could not write once to each, and sessions that shared one would race for that report.
#pragma once

#include <atomic>
#include <cerrno>
#include <coroutine>
#include <utility>

#include <ashlar/io.h>
#include <ashlar/result.h>
#include <ashlar/task.h>

namespace ashlar {

// One session's flushes. A flush that comes while a sync runs waits for the next one, since writes
// that it has to cover may have been completed after the running one looked; all that wait share
// that next one, and its error.
//
// A failed sync is remembered for good: the kernel reports a page that it could not write once, and
// then takes it for clean, so that a later sync would succeed although data was lost. From then on
// every flush fails with that errno.
//
// Thread: the queue's. Nothing is allocated: those that wait are listed in their own frames.
class GroupCommit {
public:
    // lost: the errno of the first sync that failed, 0 until then; shared by all sessions of a
    // disk.
    explicit GroupCommit(std::atomic<int>& lost) noexcept : lost_(lost) {}
    GroupCommit(const GroupCommit&) = delete;
    GroupCommit& operator=(const GroupCommit&) = delete;

    // sync: called with io, begins to make all data durable and gives what is to be awaited for the
    // IoResult. Of the flushes that share a sync, that of the first is called.
    template <class Sync>
    Task<> flush(Io& io, Sync sync) {
        if (running_) {
            // NOLINTNEXTLINE(misc-const-correctness): awaiting it changes it.
            Wait wait(waiting_);
            co_await wait;
            if (!wait.leads) co_return wait.result;
        }
        running_ = true;
        IoResult result = already_lost();
        while (result.ok()) {
            result = co_await sync(io);
            if (result.error() != EINTR && result.error() != EAGAIN) break;
            result = {};
        }
        result = remember(result);
        Line sharing = std::exchange(sharing_, {});
        if (Wait* next = waiting_.take_first()) {
            // It begins the next sync before it is back here, for all that wait by now.
            sharing_ = std::exchange(waiting_, {});
            next->leads = true;
            next->frame.resume();
        } else {
            running_ = false;
        }
        while (Wait* other = sharing.take_first()) {
            other->result = result;
            other->frame.resume();
        }
        co_return result;
    }

private:
    struct Wait;
    // In the order they came.
    struct Line {
        Wait* first = nullptr;
        Wait* last = nullptr;

        void add(Wait* wait) noexcept {
            (last != nullptr ? last->next : first) = wait;
            last = wait;
        }
        Wait* take_first() noexcept {
            Wait* taken = first;
            if (taken != nullptr) first = taken->next;
            if (first == nullptr) last = nullptr;
            return taken;
        }
    };
    struct Wait {
        explicit Wait(Line& in) noexcept : line(in) {}
        static bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<> waiter) noexcept {
            frame = waiter;
            line.add(this);
        }
        static void await_resume() noexcept {}

        Line& line;
        std::coroutine_handle<> frame = nullptr;
        Wait* next = nullptr;
        bool leads = false;  // it is to begin the sync; else the result is there
        IoResult result{};
    };

    [[nodiscard]] IoResult already_lost() const noexcept {
        return IoResult::from_errno(lost_.load(std::memory_order_acquire));
    }
    // A cancelled sync was none: nothing is known to be lost.
    [[nodiscard]] IoResult remember(IoResult result) noexcept {
        if (!result.ok() && result.error() != ECANCELED) {
            int none = 0;
            lost_.compare_exchange_strong(none, result.error(), std::memory_order_acq_rel);
        }
        return result.ok() ? already_lost() : result;
    }

    std::atomic<int>& lost_;
    bool running_ = false;
    Line sharing_;  // those that the running sync is for, beside the one that began it
    Line waiting_;  // those that came since it began
};

}  // namespace ashlar
