#include "cli/server_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "cli/command.h"

namespace ashlar::cli {
namespace {

constexpr auto kDirectory = "/run/ashlar";
constexpr int kStateVersion = 1;
constexpr std::size_t kLineMax = 1 << 20;
constexpr timeval kSocketTimeout{.tv_sec = 5, .tv_usec = 0};

std::string state_path(DeviceId id) { return fmt::format("{}/ublk{}.json", kDirectory, id); }

Error state_error(std::string operation, int code) {
    return Error{.operation = std::move(operation), .code = code};
}

}  // namespace

std::string socket_path(DeviceId id) { return fmt::format("{}/ublk{}.sock", kDirectory, id); }

Result<void> make_state_directory() {
    if (mkdir(kDirectory, 0755) != 0 && errno != EEXIST) {
        return std::unexpected(state_error(fmt::format("make directory {}", kDirectory), errno));
    }
    return {};
}

// A reader sees the old file, the new one or none, never half of one.
Result<void> write_state(const ServerState& state) {
    const nlohmann::json json = {
        {"version", kStateVersion}, {"id", state.id}, {"pid", state.pid}, {"type", state.type}};
    const std::string text = json.dump() + "\n";
    const std::string path = state_path(state.id);
    const std::string fresh = path + ".new";
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

std::optional<ServerState> read_state(DeviceId id) {
    std::ifstream file(state_path(id));
    const auto json = nlohmann::json::parse(file, nullptr, false);
    if (!json.is_object() || json.value("version", 0) != kStateVersion) return std::nullopt;
    return ServerState{.id = id, .pid = json.value("pid", 0), .type = json.value("type", "")};
}

void remove_state(DeviceId id) noexcept {
    unlink(state_path(id).c_str());
    unlink(socket_path(id).c_str());
}

std::vector<DeviceId> ids_with_state() {
    std::vector<DeviceId> ids;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(kDirectory, none)) {
        if (entry.path().extension() != ".json") continue;
        if (const auto id = parse_device("ublkb" + entry.path().stem().string().substr(4))) {
            ids.push_back(*id);
        }
    }
    return ids;
}

Result<nlohmann::json> receive_line(int socket) {
    std::string line;
    std::array<char, 4096> piece{};
    while (line.find('\n') == std::string::npos) {
        const ssize_t got = recv(socket, piece.data(), piece.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            const int code = errno == EAGAIN ? ETIMEDOUT : errno;
            return std::unexpected(state_error("hear from the server", code));
        }
        if (got == 0 || line.size() > kLineMax) {
            return std::unexpected(state_error("hear from the server", EPROTO));
        }
        line.append(piece.data(), static_cast<std::size_t>(got));
    }
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded()) return std::unexpected(state_error("hear from the server", EPROTO));
    return json;
}

Result<void> send_line(int socket, const nlohmann::json& message) {
    const std::string text = message.dump() + "\n";
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

Result<nlohmann::json> ask_server(DeviceId id, const nlohmann::json& request) {
    const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return std::unexpected(state_error("talk to the server", errno));
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kSocketTimeout, sizeof(kSocketTimeout));
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kSocketTimeout, sizeof(kSocketTimeout));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = socket_path(id);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return std::unexpected(state_error("talk to the server", errno));
    }
    if (auto sent = send_line(fd.get(), request); !sent) return std::unexpected(sent.error());
    return receive_line(fd.get());
}

}  // namespace ashlar::cli
