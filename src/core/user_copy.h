// User copy: the server itself moves a request's data, by reading and writing /dev/ublkcN.
#pragma once

#include <unistd.h>
#include <cerrno>
#include <cstddef>

#include <ashlar/types.h>

#include "kernel/codec.h"

namespace ashlar {

namespace detail {

// move: pread or pwrite of (done bytes). Answers 0 or an errno.
template <class Move>
int copy_all(const Request& request, Move move) noexcept {
    std::size_t done = 0;
    while (done < request.length) {
        const auto offset =
            kernel::user_copy_offset(request.queue, request.tag, static_cast<std::uint32_t>(done));
        const ssize_t moved = move(done, static_cast<off_t>(offset));
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return errno;
        // The driver has no more, although the request is not over: memory that cannot be reached.
        if (moved == 0) return EFAULT;
        done += static_cast<std::size_t>(moved);
    }
    return 0;
}

}  // namespace detail

// The data of a write, to memory.
[[nodiscard]] inline int copy_from_request(int device, const Request& request,
                                           std::byte* to) noexcept {
    return detail::copy_all(request, [&](std::size_t done, off_t offset) {
        return pread(device, to + done, request.length - done, offset);
    });
}
// From memory, as the data of a read.
[[nodiscard]] inline int copy_to_request(int device, const Request& request,
                                         const std::byte* from) noexcept {
    return detail::copy_all(request, [&](std::size_t done, off_t offset) {
        return pwrite(device, from + done, request.length - done, offset);
    });
}

}  // namespace ashlar
