#include "core/io_scheduler.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>

namespace ashlar {
namespace {

[[noreturn]] void write_none(const char* path) {
    prctl(PR_SET_NAME, "ashlar-sched");
    close_range(0, ~0U, 0);
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    _exit(file >= 0 && write(file, "none", 4) == 4 ? 0 : 1);
}

}  // namespace

std::string io_scheduler_file(std::uint32_t id) {
    return "/sys/block/ublkb" + std::to_string(id) + "/queue/scheduler";
}

// The kernel makes the change when all requests in flight are answered. A process that serves them
// and waits for that could not end while one is not, so it is done by a process that holds nothing;
// and one that nobody has to reap.
void leave_out_io_scheduler(const std::string& file) noexcept {
    const pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) write_none(file.c_str());
        _exit(0);
    }
    while (child > 0 && waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
}

}  // namespace ashlar
