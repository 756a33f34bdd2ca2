// User copy: the server itself moves a request's data, by reading and writing /dev/ublkcN.
#pragma once

#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ashlar/types.h>

#include "kernel/codec.h"

namespace ashlar {

// What of a request moves.
enum class Part : std::uint8_t { data, metadata };

namespace detail {

// move: pread or pwrite of (done bytes). Answers 0 or an errno.
template <class Move>
int copy_all(const Request& request, Part part, std::uint32_t length, Move move) noexcept {
    std::uint32_t done = 0;
    while (done < length) {
        const auto offset =
            kernel::user_copy_offset(request.queue, request.tag, done, part == Part::metadata);
        const ssize_t moved = move(done, static_cast<off_t>(offset));
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return errno;
        // The driver has no more, although the request is not over: memory that cannot be reached.
        if (moved == 0) return EFAULT;
        done += static_cast<std::uint32_t>(moved);
    }
    return 0;
}

}  // namespace detail

// What a write brings, to memory.
[[nodiscard]] inline int copy_from_request(int device, const Request& request, Part part,
                                           std::span<std::byte> to) noexcept {
    const auto length = static_cast<std::uint32_t>(to.size());
    return detail::copy_all(request, part, length, [&](std::size_t done, off_t offset) {
        return pread(device, to.data() + done, length - done, offset);
    });
}
// From memory, as what a read gets.
[[nodiscard]] inline int copy_to_request(int device, const Request& request, Part part,
                                         std::span<const std::byte> from) noexcept {
    const auto length = static_cast<std::uint32_t>(from.size());
    return detail::copy_all(request, part, length, [&](std::size_t done, off_t offset) {
        return pwrite(device, from.data() + done, length - done, offset);
    });
}

}  // namespace ashlar
