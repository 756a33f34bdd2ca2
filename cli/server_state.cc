#include "cli/server_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "cli/command.h"
#include "cli/json_text.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr off_t kStateMost = 1 << 20;
constexpr std::size_t kReplyMax = 64 << 20;
constexpr auto kStateLockWait = 5s;  // a removal waits twice as long for a server
constexpr timeval kSocketTimeout{.tv_sec = 5, .tv_usec = 0};

// Of a socket's path in the state directory, "nbd-PID-COUNT.sock" the longest.
constexpr std::size_t kSocketNameMost = 32;

std::string lock_path(DeviceId id) { return fmt::format("{}/ublk{}.lock", state_directory(), id); }
std::string state_path(DeviceId id) { return fmt::format("{}/ublk{}.json", state_directory(), id); }

// What becomes the state file once it is whole.
std::string fresh_state_path(DeviceId id) { return state_path(id) + ".new"; }

Error state_error(std::string operation, int code) {
    return Error{.operation = std::move(operation), .code = code};
}

}  // namespace

std::string socket_path(DeviceId id) {
    return fmt::format("{}/ublk{}.sock", state_directory(), id);
}

const std::string& state_directory() {
    static const std::string directory = [] {
        if (geteuid() == 0) return std::string("/run/ashlar");
        const char* runtime = std::getenv("XDG_RUNTIME_DIR");
        if (runtime == nullptr || runtime[0] != '/') return std::string();
        return std::string(runtime) + "/ashlar";
    }();
    return directory;
}

Error no_state_directory() {
    return {.operation = "find the state directory",
            .code = ENOENT,
            .detail = "XDG_RUNTIME_DIR is not set",
            .hint =
                "log in, instead of 'su', or set it to a directory of yours that nobody else "
                "may enter"};
}

Result<void> make_state_directory() {
    const std::string& directory = state_directory();
    if (directory.empty()) return std::unexpected(no_state_directory());
    const std::string operation = "make directory " + directory;
    if (directory.size() + kSocketNameMost > sizeof(sockaddr_un::sun_path)) {
        Error error = state_error(operation, ENAMETOOLONG);
        error.hint = "set XDG_RUNTIME_DIR to a shorter path";
        return std::unexpected(std::move(error));
    }
    // What lies in a user's says where that user's data is.
    const mode_t mode = geteuid() == 0 ? 0755 : 0700;
    if (mkdir(directory.c_str(), mode) != 0 && errno != EEXIST) {
        return std::unexpected(state_error(operation, errno));
    }
    return {};
}

// A reader sees the old file, the new one or none, never half of one.
Result<void> write_state(const ServerState& state) {
    const std::string text = format_state(state);
    const std::string path = state_path(state.id);
    const std::string fresh = fresh_state_path(state.id);
    if (text.size() > static_cast<std::size_t>(kStateMost)) {
        return std::unexpected(state_error("write " + path, EFBIG));
    }
    const Fd fd(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) return std::unexpected(state_error("write " + fresh, errno));
    errno = 0;
    if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        rename(fresh.c_str(), path.c_str()) != 0) {
        const int code = errno != 0 ? errno : ENOSPC;
        unlink(fresh.c_str());
        return std::unexpected(state_error("write " + path, code));
    }
    return {};
}

namespace {

// All of a regular file, if it is not larger than any state file.
std::string read_small_file(const std::string& path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat about{};
    if (!fd.valid() || fstat(fd.get(), &about) != 0 || !S_ISREG(about.st_mode)) return {};
    if (about.st_size > kStateMost) return {};
    std::string text(static_cast<std::size_t>(about.st_size), '\0');
    const ssize_t got = read(fd.get(), text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}

}  // namespace

std::optional<ServerState> read_any_state(DeviceId id) {
    return parse_state(id, read_small_file(state_path(id)));
}

std::optional<ServerState> read_state(DeviceId id, std::uint64_t identity) {
    auto state = read_any_state(id);
    if (state && state->identity != identity) return std::nullopt;
    return state;
}

namespace {

// Only its owner may open it: whoever can open a file can lock it, and keep it locked.
Fd open_lock(const std::string& path) {
    return Fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
}

bool lock_until(const Fd& fd, std::chrono::steady_clock::time_point deadline) {
    while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (std::chrono::steady_clock::now() >= deadline) return false;
        std::this_thread::sleep_for(2ms);
    }
    return true;
}

}  // namespace

StateLock::StateLock() {
    const std::string path = state_directory() + "/lock";
    file_ = open_lock(path);
    if (!file_.valid()) {
        taken_ = std::unexpected(state_error("lock " + path, errno));
    } else if (!lock_until(file_, std::chrono::steady_clock::now() + kStateLockWait)) {
        Error error = state_error("lock " + path, ETIMEDOUT);
        error.detail = "another process holds it";
        error.hint = "see which: 'fuser " + path + "'";
        taken_ = std::unexpected(std::move(error));
    }
}

Result<Fd> lock_file(const std::string& name) {
    const std::string path = state_directory() + "/" + name;
    Fd fd = open_lock(path);
    if (fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    return std::unexpected(state_error("lock " + path, errno));
}

Fd lock_server(DeviceId id, std::chrono::milliseconds bound) {
    const auto deadline = std::chrono::steady_clock::now() + bound;
    const std::string path = lock_path(id);
    while (access(state_path(id).c_str(), F_OK) == 0) {
        Fd fd = open_lock(path);
        if (!fd.valid() || !lock_until(fd, deadline)) break;
        // Whoever held it may have removed the device, and another be there by now.
        struct stat locked{};
        struct stat there{};
        if (fstat(fd.get(), &locked) == 0 && stat(path.c_str(), &there) == 0 &&
            locked.st_ino == there.st_ino) {
            return fd;
        }
    }
    return {};
}

void remove_state(DeviceId id, std::uint64_t identity) {
    const StateLock lock;
    const auto state = read_any_state(id);
    if (state && state->identity == identity) remove_orphaned_state(id);
}

void remove_state_of_gone(Control& control, DeviceId id) {
    const StateLock lock;
    const auto info = control.info(id);
    // EPERM: the id is another user's device by now.
    if (!info && (info.error().code == ENODEV || info.error().code == EPERM)) {
        remove_orphaned_state(id);
    }
}

void remove_orphaned_state(DeviceId id) noexcept {
    unlink(state_path(id).c_str());
    unlink(fresh_state_path(id).c_str());
    unlink(socket_path(id).c_str());
    unlink(lock_path(id).c_str());
}

std::vector<DeviceId> ids_with_state() {
    std::vector<DeviceId> ids;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(state_directory(), none)) {
        const std::string name = entry.path().filename().string();
        if (!name.starts_with("ublk")) continue;
        const auto dot = name.find('.');
        if (dot == std::string::npos) continue;
        if (const auto id = parse_device(name.substr(4, dot - 4))) ids.push_back(*id);
    }
    return ids;
}

Result<nlohmann::json> receive_line(int socket, std::chrono::milliseconds bound,
                                    std::size_t bytes_max) {
    const auto deadline = std::chrono::steady_clock::now() + bound;
    const auto failed = [](int code) {
        return std::unexpected(state_error("hear from the other side", code));
    };
    std::string line;
    std::array<char, 4096> piece{};
    while (line.find('\n') == std::string::npos) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd ready{socket, POLLIN, 0};
        if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) == 0) {
            return failed(ETIMEDOUT);
        }
        const ssize_t got = recv(socket, piece.data(), piece.size(), MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0) return failed(got < 0 ? errno : EPROTO);
        line.append(piece.data(), static_cast<std::size_t>(got));
        if (line.size() > bytes_max) return failed(EMSGSIZE);
    }
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded()) return failed(EPROTO);
    return json;
}

Result<void> send_line(int socket, const nlohmann::json& message) {
    const std::string text = json_text(message) + "\n";
    std::string_view rest = text;
    while (!rest.empty()) {
        const ssize_t sent = send(socket, rest.data(), rest.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) {
            const int code = errno == EAGAIN ? ETIMEDOUT : errno;
            return std::unexpected(state_error("talk to the server", code));
        }
        rest.remove_prefix(static_cast<std::size_t>(sent));
    }
    return {};
}

Result<nlohmann::json> ask_server(DeviceId id, const nlohmann::json& request,
                                  std::chrono::milliseconds bound) {
    const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return std::unexpected(state_error("talk to the server", errno));
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kSocketTimeout, sizeof(kSocketTimeout));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = socket_path(id);
    if (state_directory().empty()) return std::unexpected(no_state_directory());
    if (path.size() >= sizeof(address.sun_path)) {
        return std::unexpected(state_error("talk to the server", ENAMETOOLONG));
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return std::unexpected(state_error("talk to the server", errno));
    }
    if (auto sent = send_line(fd.get(), request); !sent) return std::unexpected(sent.error());
    return receive_line(fd.get(), bound, kReplyMax);
}

int tell_server(DeviceId id, const nlohmann::json& request, std::chrono::milliseconds bound) {
    // Whether there is one, and whose, only the kernel knows.
    auto control = Control::open();
    if (!control) return fail(control.error());
    if (const auto info = control->info(id); !info) return fail(info.error());
    const auto reply = ask_server(id, request, bound);
    if (!reply) {
        Error error = reply.error();
        error.device = id;
        if (error.code == ENOENT || error.code == ECONNREFUSED) {
            error.detail = "it has no server of ours that could be asked";
            error.hint = "see 'ashlar show' and 'ashlar recover'";
        }
        return fail(error);
    }
    if (!reply->contains("error")) return kSuccess;
    complain(reply->value("error", ""));
    return kFailure;
}

}  // namespace ashlar::cli
