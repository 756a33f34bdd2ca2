// What holds for requests whoever serves them: pure functions of a request and its answer.
#pragma once

#include <cerrno>
#include <cstdint>

#include <ashlar/result.h>
#include <ashlar/types.h>

#include "core/commands.h"

namespace ashlar {

// A read or a write: what nearly all requests are, so it is asked first.
[[nodiscard]] inline bool is_transfer(const Request& request) noexcept {
    static_assert(Op::read < Op::write && Op::write < Op::flush);
    return request.op <= Op::write;
}
// Of the server's to store: it comes with the request.
[[nodiscard]] inline bool brings_data(const Request& request) noexcept {
    return request.op == Op::write || request.op == Op::zone_append;
}
// Of the server's to give.
[[nodiscard]] inline bool takes_data(const Request& request) noexcept {
    return request.op == Op::read || request.op == Op::report_zones;
}
[[nodiscard]] inline bool has_data(const Request& request) noexcept {
    if (is_transfer(request)) [[likely]]
        return true;
    return request.op == Op::zone_append || request.op == Op::report_zones;
}

// The errno for what was not advertised, or does not fit; 0 when the session may have it.
// size: bytes of the disk.
[[nodiscard]] inline int refusal(const Request& request, const QueueConfig& config,
                                 std::uint64_t size) noexcept {
    const Capabilities& can = config.capabilities;
    if (can.read_only && !takes_data(request) && request.op != Op::flush) return EROFS;
    // Beyond the end: the disk has become smaller since it was sent.
    const auto is_beyond = [&](std::uint64_t length) noexcept {
        return length > size || request.offset > size - length;
    };
    if (is_transfer(request)) [[likely]] {
        if (is_beyond(request.length)) [[unlikely]]
            return EIO;
        return request.length > config.io_max ? EINVAL : 0;
    }
    if (is_beyond(request.op == Op::report_zones ? 0 : request.length)) return EIO;
    switch (request.op) {
        case Op::flush: return can.flush ? 0 : EOPNOTSUPP;
        case Op::discard: return can.discard ? 0 : EOPNOTSUPP;
        case Op::write_zeroes: return can.write_zeroes ? 0 : EOPNOTSUPP;
        case Op::unknown: return EOPNOTSUPP;
        default: break;
    }
    if (config.zone_size == 0) return EOPNOTSUPP;
    return has_data(request) && request.length > config.io_max ? EINVAL : 0;
}

// Whether a session's answer cannot be true. One that answers a transfer with a count must have
// moved as much as it was asked to; a report has an entry or more; data was appended inside the
// zone.
[[nodiscard]] inline bool is_false(const Request& request, const QueueConfig& config,
                                   IoResult result) noexcept {
    if (!result.ok()) return false;
    if (is_transfer(request)) [[likely]]
        return result.count() != 0 && result.count() != request.length;
    switch (request.op) {
        case Op::report_zones:
            return result.count() == 0 || result.count() > request.zones().size();
        case Op::zone_append:
            return result.count() < request.offset || request.length > config.zone_size ||
                   result.count() - request.offset > config.zone_size - request.length;
        default: return false;
    }
}

// The kernel reads the result of requests with data only, which is all of their buffer; for the
// others 0 stands for success, which also keeps a discard of 2 GiB or more from looking like an
// errno.
[[nodiscard]] inline std::int32_t kernel_result(const Request& request, IoResult result) noexcept {
    if (!result.ok()) return -result.error();
    return static_cast<std::int32_t>(request.buffer.length());
}

}  // namespace ashlar
