#include "cli/outside.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>
#include <thread>

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

// The same as enter_first_namespace(). Links from / on lead to where they lead for that process:
// its root may be another than its namespace's. Nothing of it is held any longer than the thread
// lives: it would keep the mounts of a namespace that ends meanwhile.
bool enter_place_of(std::int32_t process) {
    const auto open_of = [&](const char* what, int flags) {
        return Fd(open(fmt::format("/proc/{}/{}", process, what).c_str(), flags | O_CLOEXEC));
    };
    const Fd mounts = open_of("ns/mnt", O_RDONLY);
    const Fd root = open_of("root", O_PATH | O_DIRECTORY);
    return mounts.valid() && root.valid() && unshare(CLONE_FS) == 0 &&
           setns(mounts.get(), CLONE_NEWNS) == 0 && fchdir(root.get()) == 0 && chroot(".") == 0;
}

}  // namespace

Result<void> look_as(std::int32_t process, const std::function<Result<void>()>& look) {
    Result<void> seen;
    try {
        std::jthread([&] {
            if (!enter_place_of(process)) static_cast<void>(enter_first_namespace());
            seen = look();
        });
    } catch (const std::system_error& error) {
        return std::unexpected(Error{.operation = "start a thread", .code = error.code().value()});
    }
    return seen;
}

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
