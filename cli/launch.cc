#include "cli/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include <ashlar/control.h>

#include "base/fd.h"
#include "base/random.h"
#include "cli/command.h"
#include "cli/held.h"
#include "cli/json_text.h"
#include "cli/process.h"
#include "cli/server_state.h"
#include "cli/supervisor.h"

namespace ashlar::cli {
namespace {

bool write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

std::string read_all(int fd) {
    std::string text;
    std::array<char, 4096> piece{};
    while (true) {
        const ssize_t got = read(fd, piece.data(), piece.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return text;
        text.append(piece.data(), static_cast<std::size_t>(got));
    }
}

// One line: the device that is usable, or what went wrong.
bool tell(const Fd& pipe, const nlohmann::json& json) {
    return write_all(pipe.get(), json_text(json) + "\n");
}

bool tell_result(Fd& pipe, const Result<DeviceId>& result) {
    const bool heard = tell(pipe, result ? nlohmann::json{{"id", *result}}
                                         : nlohmann::json{{"error", result.error().message()}});
    pipe.reset();
    return heard;
}

// What the caller left open (a lock, a pipe) is not ours to hold for as long as the disk lives.
void close_all_but(int one, int other) {
    const auto [low, high] = std::minmax(one, other);
    unsigned next = STDERR_FILENO + 1;
    for (const int keep : {low, high}) {
        if (keep < static_cast<int>(next)) continue;
        const auto kept = static_cast<unsigned>(keep);
        if (kept > next) close_range(next, kept - 1, 0);
        next = kept + 1;
    }
    close_range(next, ~0U, 0);
}

// The server's own life: a session without terminal, nothing open but what it needs. It does not go
// on with what the caller gave it: whoever reads the caller's output to its end would wait for it.
Result<void> be_in_the_background() {
    setsid();
    const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null.valid()) return std::unexpected(Error{.operation = "open /dev/null", .code = errno});
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (dup2(null.get(), fd) >= 0) continue;
        return std::unexpected(Error{.operation = "let go of the terminal", .code = errno});
    }
    static_cast<void>(chdir("/"));
    return {};
}

[[noreturn]] void run_background_server(const ServerJob& job, const Log& log, Fd pipe) {
    if (auto hidden = be_in_the_background(); !hidden) {
        static_cast<void>(tell_result(pipe, std::unexpected(hidden.error())));
        std::exit(kFailure);
    }
    std::exit(run_server(
        job, log, [&](const Result<DeviceId>& result) { return tell_result(pipe, result); }));
}

std::string how_it_ended(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        return fmt::format("the server was killed by signal {} before the device was usable",
                           WTERMSIG(status));
    }
    return "the server ended before the device was usable";
}

// The process beside the server. Answers an exit status.
int be_the_supervisor(ServerJob job, const Log& log, Fd pipe, bool recovers) {
    Held held;
    auto kept = recovers ? held.hold_memory(job) : Result<void>();
    // In the caller's directory: what a program is told is relative to it.
    if (kept) kept = held.start_programs(job);
    if (kept) kept = be_in_the_background();
    if (!kept) {
        static_cast<void>(tell_result(pipe, std::unexpected(kept.error())));
        return kFailure;
    }
    job.supervisor = getpid();
    job.supervisor_start = process_start(getpid());
    const pid_t server = fork();
    if (server == 0) {
        close_all_but(pipe.get(), log.descriptor());  // what is held here
        run_background_server(job, log, std::move(pipe));
    }
    if (server < 0) {
        const Error error{.operation = "start the server", .code = errno};
        static_cast<void>(tell_result(pipe, std::unexpected(error)));
        return kFailure;
    }
    pipe.reset();
    held.follow(log);
    return supervise(server, log, recovers);
}

// The child of a fork: the server, or its supervisor.
[[noreturn]] void be_the_child(const ServerJob& job, const Log& log, Fd pipe, bool supervised) {
    close_all_but(pipe.get(), log.descriptor());
    if (!supervised && !has_program_of_its_own(job.spec)) {
        run_background_server(job, log, std::move(pipe));
    }
    std::exit(be_the_supervisor(job, log, std::move(pipe), supervised));
}

// The server was killed before its device was usable, at whatever moment.
void remove_unfinished(std::uint64_t identity) {
    auto control = Control::open();
    if (!control) return;
    const auto devices = control->list();
    if (!devices) return;
    for (const DeviceInfo& device : *devices) {
        if (device.identity != identity) continue;
        static_cast<void>(control->remove(device.id));
        remove_state(device.id, identity);
    }
}

std::expected<DeviceId, std::string> hear(const ServerJob& job, const std::string& told,
                                          pid_t child) {
    const auto last = nlohmann::json::parse(told, nullptr, false);
    if (last.contains("id")) return last["id"].get<DeviceId>();
    if (last.contains("error")) return std::unexpected(last.value("error", ""));
    // A supervisor would try again.
    kill(child, SIGTERM);
    std::string ended = how_it_ended(child);
    if (!job.recovered) remove_unfinished(job.device.identity);
    return std::unexpected(std::move(ended));
}

}  // namespace

std::expected<DeviceId, std::string> launch(ServerJob job, const Log& log, bool supervised) {
    const auto failed = [](int code, const char* hint) {
        return std::unexpected(
            Error{.operation = "start the server", .code = code, .hint = hint}.message());
    };
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return failed(errno, "");
    Fd reader(ends[0]);
    Fd writer(ends[1]);
    job.device.identity = random_nonzero();
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) return failed(errno, "raise the limit on processes (ulimit -u)");
    if (child == 0) {
        reader.reset();
        be_the_child(job, log, std::move(writer), supervised);
    }
    writer.reset();
    return hear(job, read_all(reader.get()), child);
}

}  // namespace ashlar::cli
