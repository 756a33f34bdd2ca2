#include "core/child_control.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>

#include <ashlar/control.h>

#include "base/fd.h"
#include "core/control_hints.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;

// The child's own bound comes first; this much later it is given up.
constexpr milliseconds kGrace{1000};

// Nothing of the parent's may be held open: the device's end waits for it.
void close_all_but(int kept) {
    const auto fd = static_cast<unsigned>(kept);
    if (fd > 0) close_range(0, fd - 1, 0);
    close_range(fd + 1, ~0U, 0);
}

template <class Command>
[[noreturn]] void be_the_child(int pipe, milliseconds timeout, const Command& command) {
    close_all_but(pipe);
    std::int32_t code = 0;
    auto control = Control::open({.timeout = timeout});
    if (!control) {
        code = control.error().code;
    } else if (auto done = command(*control); !done) {
        code = done.error().code;
    }
    const bool told = write(pipe, &code, sizeof(code)) == sizeof(code);
    _exit(told ? 0 : 1);
}

// The errno the child met, 0 for success; ETIMEDOUT when it says nothing.
int hear(const Fd& pipe, milliseconds bound) {
    pollfd ready{pipe.get(), POLLIN, 0};
    int count = 0;
    do {
        count = poll(&ready, 1, static_cast<int>(bound.count()));
    } while (count < 0 && errno == EINTR);
    std::int32_t code = 0;
    if (count <= 0) return ETIMEDOUT;
    return read(pipe.get(), &code, sizeof(code)) == sizeof(code) ? code : ECHILD;
}

template <class Command>
Result<void> from_child(const kernel::Opcode& opcode, DeviceId id, milliseconds timeout,
                        const Command& command) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        return std::unexpected(control_error(opcode, id, errno));
    }
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    const pid_t child = fork();
    if (child < 0) return std::unexpected(control_error(opcode, id, errno));
    if (child == 0) be_the_child(writer.get(), timeout, command);
    writer.reset();
    const int code = hear(reader, timeout + kGrace);
    // A child that was told by the kernel ends at once; one that was not ends when the command
    // does.
    if (code == ETIMEDOUT) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, code == ETIMEDOUT ? WNOHANG : 0) < 0 && errno == EINTR) {
    }
    if (code != 0) return std::unexpected(control_error(opcode, id, code));
    return {};
}

}  // namespace

Result<void> start_from_child(DeviceId id, std::int32_t pid, milliseconds timeout) {
    return from_child(kernel::control::start_dev, id, timeout,
                      [=](Control& control) { return control.start(id, pid); });
}

Result<void> stop_from_child(DeviceId id, milliseconds timeout) {
    return from_child(kernel::control::stop_dev, id, timeout,
                      [=](Control& control) { return control.stop(id); });
}

Result<void> stop_if_unused_from_child(DeviceId id, milliseconds timeout) {
    return from_child(kernel::control::try_stop_dev, id, timeout,
                      [=](Control& control) { return control.stop_if_unused(id); });
}

}  // namespace ashlar
