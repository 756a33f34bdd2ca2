// ashlar upgrade: another program serves the device from now on, and its users do not notice.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>

#include "base/fd.h"
#include "cli/command.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr int kEndMs = 10'000;

struct UpgradeOptions {
    std::string device;
    std::string binary;
};

struct Ended {
    bool well = false;
    std::string said;  // on stderr, if not
};

// program recover ID, and what came of it.
Ended run_recover(const std::string& program, DeviceId id) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return {.said = "no pipe is to be had"};
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    const std::string number = std::to_string(id);
    const pid_t child = fork();
    if (child < 0) return {.said = "no process is to be had"};
    if (child == 0) {
        dup2(writer.get(), STDERR_FILENO);
        const Fd null(open("/dev/null", O_RDWR));
        dup2(null.get(), STDOUT_FILENO);
        execl(program.c_str(), "ashlar", "recover", number.c_str(), "--locked",
              static_cast<char*>(nullptr));
        static_cast<void>(dprintf(STDERR_FILENO, "%s", "it cannot be executed"));
        _exit(127);
    }
    writer.reset();
    Ended ended;
    std::array<char, 1024> piece{};
    ssize_t got = 0;
    while ((got = read(reader.get(), piece.data(), piece.size())) > 0) {
        ended.said.append(piece.data(), static_cast<std::size_t>(got));
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ended.well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    while (!ended.said.empty() && ended.said.back() == '\n') ended.said.pop_back();
    return ended;
}

void await_end(const Fd& process) {
    pollfd fd{process.get(), POLLIN, 0};
    while (process.valid() && poll(&fd, 1, kEndMs) < 0 && errno == EINTR) {
    }
}

int hand_over(DeviceId id, const ServerState& state, const std::string& binary) {
    // The old program, even if its file is another by now.
    const Fd old(open(fmt::format("/proc/{}/exe", state.pid).c_str(), O_PATH | O_CLOEXEC));
    const Fd process(static_cast<int>(syscall(SYS_pidfd_open, state.pid, 0)));
    const auto reply = ask_server(id, {{"request", "quiesce"}}, 60s);
    if (!reply) return fail(reply.error());
    if (reply->contains("error")) {
        complain(reply->value("error", ""));
        return kFailure;
    }
    await_end(process);
    const Ended fresh = run_recover(binary, id);
    if (fresh.well) {
        fmt::print("/dev/ublkb{}\n", id);
        return kSuccess;
    }
    const Ended back = run_recover(fmt::format("/proc/self/fd/{}", old.get()), id);
    complain(fmt::format("{} does not serve ublk{} ({}); {}", binary, id, fresh.said,
                         back.well ? "the old program serves it again"
                                   : "nor does the old one: " + back.said +
                                         "; its users wait for 'ashlar recover'"));
    return kFailure;
}

int run_upgrade(const UpgradeOptions& options) {
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    const std::string binary = options.binary.empty() ? "/proc/self/exe" : options.binary;
    if (access(binary.c_str(), X_OK) != 0) {
        complain(fmt::format("--binary {}: {}; name a program that can be executed", binary,
                             strerrordesc_np(errno)));
        return kUsage;
    }
    auto control = Control::open();
    if (!control) return fail(control.error());
    const Fd lock = lock_server(*id);
    const auto info = control->info(*id);
    if (!info) return fail(info.error());
    const auto state = read_state(*id, info->identity);
    if (!state || info->state != DeviceState::live) {
        complain(
            fmt::format("upgrade ublk{}: it has no server of ours; see 'ashlar recover'", *id));
        return kFailure;
    }
    return hand_over(*id, *state, binary);
}

}  // namespace

void upgrade_command(CLI::App& app, Action& action) {
    CLI::App& upgrade = *app.add_subcommand(
        "upgrade", "Have another version of this program serve a device, without an I/O error");
    auto options = std::make_shared<UpgradeOptions>();
    upgrade.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    upgrade.add_option("--binary", options->binary, "The program; default: this one")
        ->type_name("PATH");
    upgrade.callback([options, &action] { action = [options] { return run_upgrade(*options); }; });
}

}  // namespace ashlar::cli
