// RingRunner: a real ring on this thread, for sessions that await operations of Io.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#include <ashlar/io.h>
#include <ashlar/task.h>

#include "core/io_scope.h"
#include "core/offload.h"
#include "reactor/reactor.h"

namespace ashlar::test {

// Thread: that of its constructor. Everything started with it has ended before it does.
class RingRunner {
public:
    RingRunner() : reactor_(open()), scope_(*reactor_, offload_) {}

    Io& io() noexcept { return io_; }
    IoScope& scope() noexcept { return scope_; }
    Reactor& reactor() noexcept { return *reactor_; }

    IoResult run(Task<> task) {
        run_until([&] { return task.done(); });
        return task.result();
    }
    void run_until(const std::function<bool()>& done) {
        while (!done()) run_once();
    }
    void run_once() {
        if (reactor_->run_once(std::nullopt) != 0) throw std::runtime_error("the ring broke");
    }
    void cancel() noexcept { scope_.cancel_all(); }

private:
    static std::unique_ptr<Reactor> open() {
        auto reactor = open_uring_reactor({.entries = 256, .files = 4, .buffers = 64});
        if (!reactor) throw std::runtime_error(reactor.error().message());
        return std::move(*reactor);
    }

    std::unique_ptr<Reactor> reactor_;
    OffloadPool offload_;
    IoScope scope_;
    alignas(std::max_align_t) std::byte frames_[16384];
    Arena arena_{frames_, sizeof(frames_)};
    Io io_{arena_, scope_};
};

}  // namespace ashlar::test
