#include "cli/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "cli/command.h"
#include "cli/process.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstDelay{100};
constexpr milliseconds kLongestDelay{5000};
// A server that served so long is not failing again and again.
constexpr auto kLongLife = 1s;
constexpr int kAttemptsMost = 10;
constexpr milliseconds kPausedLook{100};
constexpr milliseconds kFirstLook{10};

struct Watched {
    DeviceId id = 0;
    std::uint64_t identity = 0;
};

// What state file names this process as its supervisor.
std::optional<Watched> find_own() {
    for (const DeviceId id : ids_with_state()) {
        const auto state = read_any_state(id);
        if (state && state->supervisor == getpid()) return Watched{id, state->identity};
    }
    return std::nullopt;
}

bool exists(const Watched& device) {
    auto control = Control::open();
    if (!control) return true;  // it cannot be told
    const auto info = control->info(device.id);
    // EPERM: the id is another user's device by now.
    if (!info) return info.error().code != ENODEV && info.error().code != EPERM;
    return info->identity == device.identity;
}

bool is_gone(const Watched& device) {
    if (exists(device)) return false;
    // Unless somebody makes it anew just now.
    const Fd lock = lock_server(device.id);
    return !exists(device);
}

class Supervisor {
public:
    Supervisor(const Log& log, Fd signals, bool recovers)
        : log_(log), signals_(std::move(signals)), recovers_(recovers) {}

    // What a state file says later, or that it cannot be read, is no reason to go while the device
    // is there: what is held here would go too.
    int run(pid_t server) {
        Fd process = open_process(server);
        while (true) {
            await_end(process, server);
            process.reset();  // its number may soon be another's
            if (server > 0) waitpid(server, nullptr, WNOHANG);
            if (!device_) device_ = find_own();
            if (!device_ || is_gone(*device_)) return kSuccess;
            if (ending_) return end_device();
            const auto state = read_state(device_->id, device_->identity);
            if (state && state->pid != server && is_alive(state->pid)) {
                server = state->pid;  // somebody else brought it back
                process = open_process(server);
                began_ = steady_clock::now();
                given_up_ = false;
                continue;
            }
            if (!state || state->paused || !recovers_ || given_up_) {
                await_news(kPausedLook);
                continue;
            }
            given_up_ = !recover(*state);
            const auto next = read_state(device_->id, device_->identity);
            server = next ? next->pid : 0;
            process = open_process(server);
        }
    }

private:
    // Until the process has ended; signals meanwhile go on to it.
    void await_end(const Fd& process, pid_t server) {
        if (!process.valid()) return;
        std::array<pollfd, 2> fds = {{{process.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}}};
        while (true) {
            // Which device it is, is known when the first server has said so.
            const int bound = device_ ? -1 : static_cast<int>(kFirstLook.count());
            const int ready = poll(fds.data(), fds.size(), bound);
            if (!device_) device_ = find_own();
            if (ready <= 0) continue;
            if (fds[0].revents != 0) return;
            if (fds[1].revents != 0) forward(server);
        }
    }

    void forward(pid_t server) {
        signalfd_siginfo seen{};
        if (read(signals_.get(), &seen, sizeof(seen)) != sizeof(seen)) return;
        ending_ = true;
        kill(server, static_cast<int>(seen.ssi_signo));
    }

    void await_news(milliseconds bound) {
        pollfd fd{signals_.get(), POLLIN, 0};
        if (poll(&fd, 1, static_cast<int>(bound.count())) > 0) ending_ = true;
    }

    // Asked to, and nobody serves it.
    int end_device() {
        auto control = Control::open();
        const Result<void> removed =
            control ? control->remove(device_->id) : Result<void>(std::unexpected(control.error()));
        if (!removed) {
            log_.write(Level::error, removed.error().message());
            return kFailure;
        }
        remove_state(device_->id, device_->identity);
        return kSuccess;
    }

    // False when it is given up.
    bool recover(const ServerState& state) {
        if (steady_clock::now() - began_ >= kLongLife) attempts_ = 0;
        while (attempts_ < kAttemptsMost && !ending_) {
            if (attempts_ > 0) await_news(delay());
            ++attempts_;
            log_.write(Level::warning,
                       fmt::format("ublk{}: its server, process {}, has ended; starting another",
                                   state.id, state.pid));
            if (start_next(state)) {
                began_ = steady_clock::now();
                return true;
            }
            if (is_gone(*device_)) return true;
        }
        log_.write(Level::error,
                   fmt::format("ublk{}: no server stays; given up, try 'ashlar recover {}'",
                               state.id, state.id));
        return false;
    }

    [[nodiscard]] milliseconds delay() const {
        milliseconds delay = kFirstDelay;
        for (int i = 1; i < attempts_ && delay < kLongestDelay; ++i) delay *= 2;
        return std::min(delay, kLongestDelay);
    }

    // The program that served last, which an upgrade may have changed.
    static bool start_next(const ServerState& state) {
        const std::string id = std::to_string(state.id);
        const pid_t child = fork();
        if (child == 0) {
            sigset_t none;
            sigemptyset(&none);
            sigprocmask(SIG_SETMASK, &none, nullptr);
            const char* name = "ashlar";
            for (const std::string& program : {state.program, std::string("/proc/self/exe")}) {
                execl(program.c_str(), name, "recover", id.c_str(), "--unattended",
                      static_cast<char*>(nullptr));
            }
            _exit(127);
        }
        int status = 0;
        while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
        return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }

    const Log& log_;
    Fd signals_;
    const bool recovers_;
    std::optional<Watched> device_;
    steady_clock::time_point began_ = steady_clock::now();
    int attempts_ = 0;
    bool given_up_ = false;
    bool ending_ = false;
};

}  // namespace

int supervise(pid_t server, const Log& log, bool recovers) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGHUP, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NAME, "ashlar-super");
    Fd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    return Supervisor(log, std::move(signals), recovers).run(server);
}

}  // namespace ashlar::cli
