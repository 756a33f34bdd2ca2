// Signal: lets one coroutine wait for another of the same thread.
#pragma once

#include <coroutine>
#include <utility>

namespace ashlar::nbd {

// At most one waits at a time.
class Signal {
public:
    static bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
    static void await_resume() noexcept {}

    // Whoever waits goes on, inside this call.
    void give() noexcept {
        if (waiter_ != nullptr) std::exchange(waiter_, nullptr).resume();
    }

private:
    std::coroutine_handle<> waiter_ = nullptr;
};

}  // namespace ashlar::nbd
