// Task: what Session::serve returns. Either a result that is already there (a synchronous backend:
// no coroutine, no allocation) or a coroutine that started at once and gives its result later.
//
// Thread: a task lives and ends on the thread of the queue that started it.
// Memory: the frame of a coroutine that has an Io& among its parameters lies in the arena of that
// Io (one per tag, reused for every request); other coroutines take theirs from the heap.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <new>
#include <utility>

#include <ashlar/io.h>
#include <ashlar/result.h>

namespace ashlar {

// Movable; whoever holds it owns the coroutine. Awaited once, for its result.
template <class T = IoResult>
class [[nodiscard]] Task {
public:
    class promise_type;
    using Handle = std::coroutine_handle<promise_type>;

    Task() noexcept : Task(T{}) {}
    // A task that is done. Implicit, so that a synchronous session can `return result;`.
    Task(T value) noexcept : value_(value) {}

    Task(Task&& other) noexcept
        : frame_(std::exchange(other.frame_, nullptr)), value_(other.value_) {}
    Task& operator=(Task&& other) noexcept {
        if (this != &other) {
            destroy();
            frame_ = std::exchange(other.frame_, nullptr);
            value_ = other.value_;
        }
        return *this;
    }
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    // Destroying a task that is not done is allowed only when nothing will resume it.
    ~Task() { destroy(); }

    [[nodiscard]] bool done() const noexcept { return frame_ == nullptr || frame_.done(); }
    // Requires done().
    [[nodiscard]] T result() const noexcept {
        return frame_ == nullptr ? value_ : frame_.promise().value_;
    }
    // Called once, on the queue's thread, when the task ends. Requires !done().
    void on_done(void (*call)(void*) noexcept, void* context) noexcept {
        frame_.promise().call_ = call;
        frame_.promise().context_ = context;
    }

    // co_await task: gives its result.
    [[nodiscard]] bool await_ready() const noexcept { return done(); }
    void await_suspend(std::coroutine_handle<> waiter) noexcept {
        on_done([](void* frame) noexcept { std::coroutine_handle<>::from_address(frame).resume(); },
                waiter.address());
    }
    T await_resume() const noexcept { return result(); }

private:
    explicit Task(Handle frame) noexcept : frame_(frame) {}
    void destroy() noexcept {
        if (frame_ != nullptr) std::exchange(frame_, nullptr).destroy();
    }

    Handle frame_ = nullptr;
    T value_{};
};

template <class T>
class Task<T>::promise_type {
public:
    Task get_return_object() noexcept { return Task(Handle::from_promise(*this)); }
    std::suspend_never initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
        struct Ended {
            static bool await_ready() noexcept { return false; }
            static void await_suspend(Handle frame) noexcept {
                const promise_type& promise = frame.promise();
                // The call may destroy the frame: nothing of it is touched afterwards.
                if (promise.call_ != nullptr) promise.call_(promise.context_);
            }
            static void await_resume() noexcept {}
        };
        return Ended{};
    }
    void return_value(T value) noexcept { value_ = value; }
    // No exception crosses the API: a session that throws ends the process, loudly.
    [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }

    // Inlined always: at -O0 g++ 12 otherwise takes the frame for one of the global operator new.
    template <class... Args>
    [[gnu::always_inline]] static void* operator new(std::size_t size, Args&... args) {
        Arena* arena = nullptr;
        (find_arena(args, arena), ...);
        return Arena::allocate_frame(arena, size);
    }
    static void operator delete(void* frame) noexcept { Arena::free_frame(frame); }

private:
    friend class Task;
    template <class Arg>
    static void find_arena(Arg& arg, Arena*& arena) noexcept {
        if constexpr (std::is_base_of_v<Io, Arg>) arena = &arg.arena();
    }

    T value_{};
    void (*call_)(void*) noexcept = nullptr;
    void* context_ = nullptr;
};

}  // namespace ashlar
