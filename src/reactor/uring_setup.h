// How an io_uring is set up for what a reactor is to do, and what its refusal means.
#pragma once

#include <liburing.h>
#include <array>
#include <cerrno>
#include <span>
#include <string>

#include <ashlar/result.h>

#include "reactor/reactor.h"

namespace ashlar {

inline Error ring_error(int code, const ReactorOptions& options) {
    Error error{.operation = "set up io_uring", .code = code};
    if (code == ENOSYS) {
        error.detail = "this kernel has no io_uring";
        error.hint = "use a kernel with CONFIG_IO_URING, 6.0 or newer";
    } else if (code == EPERM || code == EACCES) {
        error.detail = "io_uring is switched off for this process";
        error.hint = "see the sysctl kernel.io_uring_disabled and the container's seccomp profile";
    } else if (code == ENOMEM) {
        error.hint = "raise the limit on locked memory (ulimit -l)";
    } else if (code == EMFILE) {
        error.hint = "raise the limit on open files (ulimit -n)";
    } else if (code == EINVAL && options.polling && options.polling->cpu) {
        error.detail = "no polling on CPU " + std::to_string(*options.polling->cpu);
        error.hint = "name a CPU that is online and that this process may use";
    }
    return error;
}

// The flags to try, best first. SINGLE_ISSUER is 6.0, DEFER_TASKRUN 6.1; a kernel that does not
// know a flag answers EINVAL. Control moves between threads, so it goes without.
inline std::span<const unsigned> setup_flags(const ReactorOptions& options) {
    static constexpr std::array<unsigned, 3> queue = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, 0};
    static constexpr std::array<unsigned, 2> polled = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SQPOLL, IORING_SETUP_SQPOLL};
    static constexpr std::array<unsigned, 1> control = {IORING_SETUP_SQE128};
    if (options.control_commands) return control;
    return options.polling ? std::span<const unsigned>(polled) : queue;
}

inline io_uring_params setup_params(const ReactorOptions& options, unsigned flags) {
    io_uring_params params{};
    params.flags = flags | IORING_SETUP_CLAMP;
    // A thread that looks for work must see that there is some to run.
    constexpr unsigned quiet_task_work = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN;
    if (options.busy_poll.count() != 0 && (flags & quiet_task_work) != 0) {
        params.flags |= IORING_SETUP_TASKRUN_FLAG;
    }
    if (!options.polling) return params;
    params.sq_thread_idle = static_cast<unsigned>(options.polling->idle.count());
    if (options.polling->cpu) {
        params.flags |= IORING_SETUP_SQ_AFF;
        params.sq_thread_cpu = *options.polling->cpu;
    }
    return params;
}

}  // namespace ashlar
