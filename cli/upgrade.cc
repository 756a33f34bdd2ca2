// ashlar upgrade: another program serves the device from now on, and its users do not notice.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>

#include "base/fd.h"
#include "cli/command.h"
#include "cli/process.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr int kEndMs = 10'000;
// For a program to serve the device; its users wait so long.
constexpr auto kServesWithin = 30s;

struct UpgradeOptions {
    std::string device;
    std::string binary;
};

struct Ended {
    bool well = false;
    std::string said;  // on stderr, if not
};

// Half way the device has no server at all: nobody stops us there.
void set_signals(int how) {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&set, number);
    sigprocmask(how, &set, nullptr);
}

// What it says until it ends or the time is over. Something that it leaves behind may keep the pipe
// open.
std::string hear(const Fd& reader, const Fd& process) {
    const auto deadline = std::chrono::steady_clock::now() + kServesWithin;
    std::string said;
    std::array<char, 1024> piece{};
    std::array<pollfd, 2> fds = {{{reader.get(), POLLIN, 0}, {process.get(), POLLIN, 0}}};
    while (true) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        const int ready = poll(fds.data(), fds.size(), std::max(0, static_cast<int>(left.count())));
        if (ready == 0) return said;
        if (ready < 0) continue;  // EINTR
        if (fds[0].revents == 0) return said;
        const ssize_t got = read(reader.get(), piece.data(), piece.size());
        if (got > 0) said.append(piece.data(), static_cast<std::size_t>(got));
        if (got <= 0) fds[0].fd = -1;
    }
}

// Whatever the program said: somebody else than before serves it.
bool is_served(Control& control, DeviceId id, const ServerState& before) {
    const auto info = control.info(id);
    if (!info || info->state != DeviceState::live || info->pid == before.pid) return false;
    const auto state = read_any_state(id);
    return !state || is_alive(state->pid);
}

// program recover ID, and what came of it. It is not asked to hurry by what is typed meanwhile.
Ended run_recover(const std::string& program, DeviceId id) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return {.said = "no pipe is to be had"};
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    const std::string number = std::to_string(id);
    const pid_t child = fork();
    if (child < 0) return {.said = "no process is to be had"};
    if (child == 0) {
        setsid();
        set_signals(SIG_UNBLOCK);
        dup2(writer.get(), STDERR_FILENO);
        const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
        if (null.valid()) dup2(null.get(), STDOUT_FILENO);
        execl(program.c_str(), "ashlar", "recover", number.c_str(), "--locked",
              static_cast<char*>(nullptr));
        static_cast<void>(dprintf(STDERR_FILENO, "%s", "it cannot be executed"));
        _exit(127);
    }
    writer.reset();
    const Fd process = open_process(child);
    Ended ended{.said = hear(reader, process)};
    if (!await_end(process, 0)) {
        kill(child, SIGKILL);
        ended.said = "it does not come to an end";
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ended.well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    while (!ended.said.empty() && ended.said.back() == '\n') ended.said.pop_back();
    return ended;
}

int hand_over(Control& control, DeviceId id, const ServerState& state, const std::string& binary) {
    // The old program, even if its file is another by now.
    const Fd old(open(fmt::format("/proc/{}/exe", state.pid).c_str(), O_PATH | O_CLOEXEC));
    const Fd process = open_process(state.pid);
    set_signals(SIG_BLOCK);
    const auto reply = ask_server(id, {{"request", "quiesce"}}, 60s);
    if (!reply) return fail(reply.error());
    if (reply->contains("error")) {
        complain(reply->value("error", ""));
        return kFailure;
    }
    await_end(process, kEndMs);
    Ended fresh = run_recover(binary, id);
    if (fresh.well && !is_served(control, id, state)) {
        fresh = {.said = "it ended well, but serves nothing"};
    }
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
    if (state->shared) {
        complain(fmt::format(
            "upgrade ublk{0}: its server, process {1}, serves all devices of {2}; have all of them "
            "served anew: 'kill -9 {1}', then 'ashlar serve {2}' recovers those with recovery",
            *id, state->pid, state->declared_in));
        return kFailure;
    }
    return hand_over(*control, *id, *state, binary);
}

}  // namespace

void upgrade_command(CLI::App& app, Action& action) {
    CLI::App& upgrade = *app.add_subcommand(
        "upgrade", "Have another version of this program serve a device, without an I/O error");
    auto options = std::make_shared<UpgradeOptions>();
    upgrade.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    upgrade.add_option("--binary", options->binary, "The program; default: this one")
        ->type_name("PATH");
    upgrade.footer(
        "Examples:\n"
        "  ashlar upgrade 0\n"
        "  ashlar upgrade 0 --binary ./build/release/bin/ashlar");
    upgrade.callback([options, &action] { action = [options] { return run_upgrade(*options); }; });
}

}  // namespace ashlar::cli
