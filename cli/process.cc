#include "cli/process.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

namespace ashlar::cli {

std::uint64_t process_start(std::int32_t process) {
    std::ifstream file(fmt::format("/proc/{}/stat", process));
    std::string text;
    std::getline(file, text);
    // The second field is a name, which may have blanks and brackets in it.
    const auto name_end = text.rfind(')');
    if (name_end == std::string::npos) return 0;
    std::istringstream fields(text.substr(name_end + 1));
    constexpr int start_field = 22;
    std::string word;
    for (int field = 3; field < start_field; ++field) fields >> word;
    std::uint64_t start = 0;
    fields >> start;
    return start;
}

Fd open_process(std::int32_t process, std::uint64_t start) {
    if (process <= 0) return {};
    Fd fd(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
    if (fd.valid() && start != 0 && process_start(process) != start) fd.reset();
    return fd;
}

bool is_alive(std::int32_t process, std::uint64_t start) {
    const Fd fd = open_process(process, start);
    return fd.valid() && !await_end(fd, 0);
}

bool await_end(const Fd& process, int bound_ms) {
    if (!process.valid()) return true;
    pollfd fd{process.get(), POLLIN, 0};
    int ready = 0;
    do {
        ready = poll(&fd, 1, bound_ms);
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

}  // namespace ashlar::cli
