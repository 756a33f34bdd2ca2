// When the kernel has let go of a ring.
#pragma once

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "base/fd.h"

namespace ashlar {

// The kernel closes the files in a ring's table when all that was submitted has ended, some time
// after the ring itself was closed. One of them is an end of a pipe, whose other end tells.
class RingEnd {
public:
    // slot: of the table, for this alone. Answers 0 or an errno.
    int watch(io_uring& ring, unsigned slot) noexcept {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0) return errno;
        ours_ = Fd(ends[0]);
        const Fd theirs(ends[1]);
        const int fd = theirs.get();
        const int result = io_uring_register_files_update(&ring, slot, &fd, 1);
        return result < 0 ? -result : 0;
    }
    // False when the time is over; true, too, when nothing was ever watched.
    [[nodiscard]] bool await(std::chrono::milliseconds bound) const noexcept {
        if (!ours_.valid()) return true;
        const auto deadline = std::chrono::steady_clock::now() + bound;
        pollfd end{.fd = ours_.get(), .events = 0, .revents = 0};
        while (true) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(
                deadline - std::chrono::steady_clock::now());
            const int ended = poll(&end, 1, std::max(0, static_cast<int>(left.count())));
            if (ended >= 0 || errno != EINTR) return ended > 0;
        }
    }

private:
    Fd ours_;
};

}  // namespace ashlar
