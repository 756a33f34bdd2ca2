#include "cli/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <string_view>
#include <utility>

#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kPrefix = "nbd-";
constexpr std::string_view kSuffix = ".sock";
// The first descriptor that socket activation hands over.
constexpr int kListener = 3;
constexpr int kConnectionsWaiting = 64;
// To bring what it was given to stable storage; then it is killed.
constexpr int kEndMs = 60'000;
constexpr auto kNews = 500ms;

Error error_of(std::string operation, int code, std::string hint = {}) {
    return {.operation = std::move(operation), .code = code, .hint = std::move(hint)};
}

std::string next_socket_path() {
    static std::atomic<unsigned> count = 0;
    return fmt::format("{}/{}{}-{}{}", state_directory(), kPrefix, getpid(), count++, kSuffix);
}

Result<Fd> listen_on(const std::string& path) {
    unlink(path.c_str());
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    if (!fd.valid() ||
        bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        chmod(path.c_str(), 0600) != 0 || listen(fd.get(), kConnectionsWaiting) != 0) {
        return std::unexpected(error_of("listen on " + path, errno));
    }
    return fd;
}

// Memory that this process and those forked from it see alike.
std::shared_ptr<ProgramEnd> make_shared_end() {
    void* const memory = mmap(nullptr, sizeof(ProgramEnd), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    return {new (memory) ProgramEnd, [](ProgramEnd* end) { munmap(end, sizeof(ProgramEnd)); }};
}

// Before this process comes with its disks: what it starts later does not.
const int kNiceAtStart = getpriority(PRIO_PROCESS, 0);

// The child of the fork. Answers only when it could not become the program.
int become(std::vector<char*>& words, const Fd& listener, const Fd& output, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return ESRCH;
    setsid();  // what is typed at our terminal is not for it
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    for (const int number : {SIGPIPE, SIGHUP}) std::signal(number, SIG_DFL);
    setpriority(PRIO_PROCESS, 0, kNiceAtStart);
    const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (dup2(null.get(), STDIN_FILENO) < 0 || dup2(output.get(), STDOUT_FILENO) < 0 ||
        dup2(output.get(), STDERR_FILENO) < 0) {
        return errno;
    }
    // dup2 onto itself would leave it to be closed.
    const int given = listener.get() == kListener ? fcntl(kListener, F_SETFD, 0)
                                                  : dup2(listener.get(), kListener);
    if (given < 0) return errno;
    // What our caller left open is not the program's; only then may it be closed, for one of these
    // tells of a failure.
    close_range(kListener + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    execvp(words.front(), words.data());
    return errno;
}

std::string how(int status) {
    if (WIFSIGNALED(status)) return fmt::format("was killed by signal {}", WTERMSIG(status));
    return fmt::format("ended with exit status {}", WEXITSTATUS(status));
}

void note_first(ProgramEnd& end, std::string_view line) {
    if (end.first_line[0] == '\0') line.copy(end.first_line.data(), end.first_line.size() - 1);
}

}  // namespace

Result<std::unique_ptr<Program>> Program::start(std::vector<std::string> words) {
    std::unique_ptr<Program> program(new Program);
    program->name_ = std::filesystem::path(words.front()).filename().string();
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    program->end_ = make_shared_end();
    if (program->end_ == nullptr) return std::unexpected(error_of("start " + words[0], errno));
    program->socket_ = next_socket_path();
    auto listener = listen_on(program->socket_);
    if (!listener) return std::unexpected(listener.error());
    if (auto executed = program->execute(words, *listener); !executed) {
        return std::unexpected(executed.error());
    }
    return program;
}

Result<void> Program::execute(std::vector<std::string>& words, const Fd& listener) {
    const std::string operation = "start " + words.front();
    std::array<int, 2> output{};
    std::array<int, 2> failure{};
    if (pipe2(output.data(), O_CLOEXEC) != 0) return std::unexpected(error_of(operation, errno));
    said_ = Fd(output[0]);
    const Fd output_writer(output[1]);
    if (pipe2(failure.data(), O_CLOEXEC) != 0) return std::unexpected(error_of(operation, errno));
    const Fd failure_reader(failure[0]);
    Fd failure_writer(failure[1]);
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = getpid();
    process_ = fork();
    if (process_ < 0) return std::unexpected(error_of(operation, errno));
    if (process_ == 0) {
        const int code = become(arguments, listener, output_writer, parent);
        static_cast<void>(write(failure_writer.get(), &code, sizeof(code)) == sizeof(code));
        _exit(127);
    }
    alive_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, process_, 0)));
    failure_writer.reset();
    int code = 0;
    // Closed without a word by execve.
    if (read(failure_reader.get(), &code, sizeof(code)) == sizeof(code)) {
        return std::unexpected(
            error_of(operation, code, "is it installed, and does its name stand first?"));
    }
    return {};
}

Program::~Program() {
    unlink(socket_.c_str());
    if (process_ <= 0) return;
    asked_to_end_ = true;
    kill(process_, SIGTERM);
    pollfd waiting{alive_.get(), POLLIN, 0};
    if (poll(&waiting, 1, kEndMs) == 0) kill(process_, SIGKILL);
    if (follower_.joinable()) {
        follower_.join();
    } else {
        waitpid(process_, nullptr, 0);
    }
}

void Program::follow(const Log& log) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the main thread
    follower_ = std::thread([this, &log] { hear(log); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Program::hear(const Log& log) {
    std::array<pollfd, 2> fds = {{{said_.get(), POLLIN, 0}, {alive_.get(), POLLIN, 0}}};
    std::string line;
    std::array<char, 1024> piece{};
    while (true) {
        if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
        if (fds[0].revents == 0) break;                      // it has ended, and said all
        const ssize_t got = read(said_.get(), piece.data(), piece.size());
        if (got <= 0) fds[0].fd = -1;
        for (const char c :
             std::string_view(piece.data(), got > 0 ? static_cast<std::size_t>(got) : 0)) {
            if (c != '\n' && line.size() < piece.size()) line += c;
            if (c != '\n' || line.empty()) continue;
            // Most programs begin with their own name.
            const std::string_view text = line.starts_with(name_ + ": ")
                                              ? std::string_view(line).substr(name_.size() + 2)
                                              : std::string_view(line);
            note_first(*end_, text);
            log.write(Level::info, fmt::format("{}: {}", name_, text));
            line.clear();
        }
    }
    int status = 0;
    while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    end_->status = status;
    end_->ended = true;
    if (asked_to_end_) return;
    log.write(Level::error,
              fmt::format("{} {}: what it served is gone; remove the device", name_, how(status)));
}

std::optional<std::string> ProgramEnd::why() const {
    const auto deadline = std::chrono::steady_clock::now() + kNews;
    while (!ended) {
        if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
        std::this_thread::sleep_for(1ms);
    }
    const std::string said = first_line.data();
    return said.empty() ? "it " + how(status) : said;
}

void remove_stale_sockets() {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(state_directory(), none)) {
        const std::string name = entry.path().filename().string();
        if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
        pid_t process = 0;
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), process);
        if (process > 0 && kill(process, 0) != 0 && errno == ESRCH) unlink(entry.path().c_str());
    }
}

}  // namespace ashlar::cli
