// RingRunner: a real ring on this thread, for sessions that await operations of Io.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ashlar/io.h>
#include <ashlar/task.h>

#include "core/io_scope.h"
#include "core/offload.h"
#include "reactor/reactor.h"

namespace ashlar::test {

// Thread: that of its constructor. Everything started with it has ended before it does.
class RingRunner {
public:
    explicit RingRunner(unsigned entries = 256)
        : reactor_(open(entries)), scope_(*reactor_, offload_) {}
    RingRunner(const RingRunner&) = delete;
    RingRunner& operator=(const RingRunner&) = delete;

    Io& io() noexcept { return io_; }
    IoScope& scope() noexcept { return scope_; }
    Reactor& reactor() noexcept { return *reactor_; }
    OffloadPool& offload() noexcept { return offload_; }
    // Of the ring itself: what the reactor does not do, a test may.
    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

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
    // Rings are told apart by which one is new: one is made at a time.
    std::unique_ptr<Reactor> open(unsigned entries) {
        static std::mutex one_at_a_time;
        const std::lock_guard lock(one_at_a_time);
        const std::vector<int> before = rings();
        auto reactor = open_uring_reactor({.entries = entries, .files = 4, .buffers = 64});
        if (!reactor) throw std::runtime_error(reactor.error().message());
        for (const int fd : rings()) {
            if (std::ranges::find(before, fd) == before.end()) descriptor_ = fd;
        }
        return std::move(*reactor);
    }
    static std::vector<int> rings() {
        std::vector<int> found;
        for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code gone;  // the listing's own descriptor
            if (std::filesystem::read_symlink(entry, gone) != "anon_inode:[io_uring]") continue;
            found.push_back(std::stoi(entry.path().filename()));
        }
        return found;
    }

    int descriptor_ = -1;
    std::unique_ptr<Reactor> reactor_;
    OffloadPool offload_;
    IoScope scope_;
    alignas(std::max_align_t) std::byte frames_[16384];
    Arena arena_{frames_, sizeof(frames_)};
    Io io_{arena_, scope_};
};

}  // namespace ashlar::test
