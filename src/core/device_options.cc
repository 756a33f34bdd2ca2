#include "core/device_options.h"

#include <cerrno>
#include <string>
#include <utility>

#include <ashlar/backend.h>

#include "kernel/codec.h"

namespace ashlar {
namespace {

constexpr std::uint32_t kIoMaxLeast = 4096;
constexpr unsigned kThreadsMost = 1024;
constexpr std::uint32_t kIoMaxMost = 32U << 20;

Error invalid(std::string detail) {
    return Error{.operation = "check settings", .code = EINVAL, .detail = std::move(detail)};
}

}  // namespace

Result<void> check_geometry(const Geometry& geometry) {
    if (auto valid = kernel::validate_geometry(geometry); !valid) {
        return std::unexpected(invalid(valid.error()));
    }
    return {};
}

Result<void> check_device_options(const DeviceOptions& options, const Geometry& geometry) {
    if (options.queues == 0 || options.queues > kernel::abi::max_nr_queues) {
        return std::unexpected(
            invalid("queues is " + std::to_string(options.queues) + "; allowed are 1 to 4096"));
    }
    if (options.depth == 0 || options.depth > kernel::abi::max_queue_depth) {
        return std::unexpected(
            invalid("depth is " + std::to_string(options.depth) + "; allowed are 1 to 4096"));
    }
    if (options.depth == 1 && options.commands == CommandStyle::batch) {
        return std::unexpected(invalid("depth is 1; batch commands need 2 or more"));
    }
    if (options.io_max < kIoMaxLeast || options.io_max > kIoMaxMost ||
        options.io_max % kIoMaxLeast != 0) {
        return std::unexpected(invalid("io_max is " + std::to_string(options.io_max) +
                                       " bytes; allowed are multiples of 4096 up to 33554432"));
    }
    if (options.threads_per_queue == 0 || options.threads_per_queue > options.depth) {
        return std::unexpected(
            invalid("threads per queue is " + std::to_string(options.threads_per_queue) +
                    "; allowed are 1 to the depth, " + std::to_string(options.depth)));
    }
    if (options.thread_count > kThreadsMost) {
        return std::unexpected(invalid("thread count is " + std::to_string(options.thread_count) +
                                       "; allowed are 1 to 1024, and 0 for the best"));
    }
    if (options.nice < -20 || options.nice > 19) {
        return std::unexpected(
            invalid("nice is " + std::to_string(options.nice) + "; allowed are -20 to 19"));
    }
    if (options.polling && options.polling->idle.count() < 1) {
        return std::unexpected(invalid("idle time of polling is " +
                                       std::to_string(options.polling->idle.count()) +
                                       " ms; it must be 1 or more"));
    }
    if (options.busy_poll < options.busy_poll.zero() || options.busy_poll > kBusyPollMost) {
        return std::unexpected(invalid("busy polling is for " +
                                       std::to_string(options.busy_poll.count()) +
                                       " us; allowed are 0 to 1000"));
    }
    if ((options.polling || options.busy_poll.count() != 0) && options.threads) {
        return std::unexpected(
            invalid("polling is a setting of the shared threads (QueueThreads::Options)"));
    }
    return check_geometry(geometry);
}

}  // namespace ashlar
