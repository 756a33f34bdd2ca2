#include "core/offload.h"

#include <pthread.h>
#include <algorithm>
#include <csignal>
#include <system_error>

#include "base/assert.h"
#include "base/thread_scheduling.h"
#include "core/io_scope.h"

namespace ashlar {

OffloadPool::~OffloadPool() {
    {
        const std::lock_guard lock(mutex_);
        ASHLAR_ASSERT(first_ == nullptr && running_.empty());
        quit_ = true;
    }
    wanted_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void OffloadPool::run(OffloadedCall& call) noexcept {
    std::unique_lock lock(mutex_);
    if (waiting_ >= idle_ && threads_.size() < kThreadsMax) {
        try {
            running_.reserve(kThreadsMax);
            // The queue thread has all signals blocked, and its children inherit that.
            threads_.emplace_back([this] { serve(); });
        } catch (const std::exception&) {
            if (threads_.empty()) {
                lock.unlock();
                call.run();
                return call.scope().reactor().wake(call);
            }
        }
    }
    call.next_woken = nullptr;
    (last_ == nullptr ? first_ : last_->next_woken) = &call;
    last_ = &call;
    ++waiting_;
    wanted_.notify_one();
}

void OffloadPool::serve() {
    pthread_setname_np(pthread_self(), "ashlar-offload");
    set_thread_turns(Turns::prompt);  // whatever its maker did just then
    std::unique_lock lock(mutex_);
    while (true) {
        ++idle_;
        wanted_.wait(lock, [&] { return quit_ || first_ != nullptr; });
        --idle_;
        if (first_ == nullptr) return;
        auto& call = static_cast<OffloadedCall&>(*first_);
        first_ = first_->next_woken;
        if (first_ == nullptr) last_ = nullptr;
        --waiting_;
        const IoScope* const scope = &call.scope();
        Reactor& reactor = call.scope().reactor();
        running_.push_back(scope);
        lock.unlock();
        call.run();
        // After this the call may be gone, but not before running_ says so is its reactor.
        reactor.wake(call);
        lock.lock();
        running_.erase(std::find(running_.begin(), running_.end(), scope));
        ended_.notify_all();
    }
}

void OffloadPool::forget(const IoScope& scope) noexcept {
    std::unique_lock lock(mutex_);
    Woken** at = &first_;
    last_ = nullptr;
    while (*at != nullptr) {
        if (&static_cast<OffloadedCall*>(*at)->scope() == &scope) {
            *at = (*at)->next_woken;
            --waiting_;
        } else {
            last_ = *at;
            at = &(*at)->next_woken;
        }
    }
    ended_.wait(lock, [&] { return std::ranges::find(running_, &scope) == running_.end(); });
}

}  // namespace ashlar
