// OffloadPool: a few threads for calls that block. One pool belongs to one queue thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include <ashlar/io.h>

namespace ashlar {

// Threads start when they are first needed. Thread: that of the queues, but where it says so.
class OffloadPool {
public:
    static constexpr std::size_t kThreadsMax = 4;

    OffloadPool() = default;
    OffloadPool(const OffloadPool&) = delete;
    OffloadPool& operator=(const OffloadPool&) = delete;
    // Requires that no call is left.
    ~OffloadPool();

    // Runs the call on one of the threads, in turn, and wakes the reactor of its scope; here and
    // now if there is no thread to be had.
    void run(OffloadedCall& call) noexcept;
    // Takes the scope's calls that have not begun out and waits for the others; none of them wakes
    // anybody after this.
    void forget(const IoScope& scope) noexcept;

private:
    void serve();

    std::mutex mutex_;  // guards what follows
    std::condition_variable wanted_;
    std::condition_variable ended_;
    Woken* first_ = nullptr;  // waiting calls, oldest first, linked by next_woken
    Woken* last_ = nullptr;
    std::vector<const IoScope*> running_;  // the scope of each running call
    std::size_t waiting_ = 0;
    std::size_t idle_ = 0;  // threads
    bool quit_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace ashlar
