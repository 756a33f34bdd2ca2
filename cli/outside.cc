#include "cli/outside.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>

#include "base/fd.h"
#include "cli/in_use.h"

namespace ashlar::cli {
namespace {

constexpr int kAnswerMs = 10'000;

void close_all_but(int kept) {
    const auto fd = static_cast<unsigned>(kept);
    if (fd > 0) close_range(0, fd - 1, 0);
    close_range(fd + 1, ~0U, 0);
}

}  // namespace

bool enter_first_namespace() {
    const Fd first(open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC));
    return first.valid() && unshare(CLONE_FS) == 0 && setns(first.get(), CLONE_NEWNS) == 0;
}

std::optional<std::string> who_uses_outside(DeviceId id) {
    constexpr auto unknown = "perhaps in use: it cannot be told";
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return unknown;
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    const pid_t child = fork();
    if (child < 0) return unknown;
    if (child == 0) {
        close_all_but(writer.get());
        static_cast<void>(enter_first_namespace());
        const std::string user = who_uses(id).value_or("-");
        _exit(write(writer.get(), user.data(), user.size()) > 0 ? 0 : 1);
    }
    writer.reset();
    pollfd ready{reader.get(), POLLIN, 0};
    std::array<char, 4096> answer{};
    ssize_t got = 0;
    if (poll(&ready, 1, kAnswerMs) > 0) got = read(reader.get(), answer.data(), answer.size());
    if (got <= 0) kill(child, SIGKILL);
    while (waitpid(child, nullptr, got > 0 ? 0 : WNOHANG) < 0 && errno == EINTR) {
    }
    if (got <= 0) return unknown;
    std::string user(answer.data(), static_cast<std::size_t>(got));
    return user == "-" ? std::nullopt : std::optional(std::move(user));
}

}  // namespace ashlar::cli
