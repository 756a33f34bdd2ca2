#include "cli/signals.h"

#include <sys/signalfd.h>
#include <cerrno>
#include <csignal>

namespace ashlar::cli {

Result<Fd> take_signals(std::initializer_list<int> numbers) {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : numbers) sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd.valid()) return std::unexpected(Error{.operation = "signalfd", .code = errno});
    return fd;
}

}  // namespace ashlar::cli
