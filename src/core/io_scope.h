// IoScope: the engine's side of Io: the ring that operations go to, and those in flight, so that
// they can be cancelled.
#pragma once

#include <cstddef>

#include <ashlar/io.h>

#include "core/offload.h"
#include "reactor/reactor.h"

namespace ashlar {

// One for the requests of a queue, one for its session's own operations. Thread: the reactor's.
class IoScope {
public:
    // Both outlive the scope.
    IoScope(Reactor& reactor, OffloadPool& offload) noexcept
        : reactor_(reactor), offload_(offload) {}
    IoScope(const IoScope&) = delete;
    IoScope& operator=(const IoScope&) = delete;
    ~IoScope() { offload_.forget(*this); }

    // False when everything is cancelled: it has ended already.
    bool start(IoOperation& operation) noexcept;
    void ended(IoOperation& operation) noexcept;
    bool start(OffloadedCall& call) noexcept;
    void ended(OffloadedCall& call) noexcept;

    // Ends all that is in flight with ECANCELED, and everything later at once. Calls on other
    // threads end by themselves.
    void cancel_all() noexcept;
    [[nodiscard]] bool cancelled() const noexcept { return cancelled_; }
    [[nodiscard]] bool idle() const noexcept { return first_ == nullptr && calls_ == 0; }
    // Told when the last of what was in flight has ended, if everything is cancelled.
    void on_idle(void (*call)(void*) noexcept, void* context) noexcept {
        on_idle_ = call;
        context_ = context;
    }
    // What is in flight ends with the thread, and what waits for it is never resumed.
    void thread_ends() noexcept;

    [[nodiscard]] Reactor& reactor() noexcept { return reactor_; }

private:
    void unlink(IoOperation& operation) noexcept;
    void tell_idle() noexcept;

    Reactor& reactor_;
    OffloadPool& offload_;
    IoOperation* first_ = nullptr;  // in flight
    std::size_t calls_ = 0;         // on other threads
    bool cancelled_ = false;
    void (*on_idle_)(void*) noexcept = nullptr;
    void* context_ = nullptr;
};

}  // namespace ashlar
