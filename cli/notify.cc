#include "cli/notify.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "base/fd.h"

namespace ashlar::cli {
namespace {

std::optional<std::int64_t> number_in(const char* variable) {
    const char* text = std::getenv(variable);
    if (text == nullptr) return std::nullopt;
    std::int64_t number = 0;
    const char* end = text + std::strlen(text);
    const auto parsed = std::from_chars(text, end, number);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
    return number;
}

}  // namespace

Notify Notify::from_environment() {
    Notify notify;
    if (const char* path = std::getenv("NOTIFY_SOCKET")) notify.socket_ = path;
    const auto interval = number_in("WATCHDOG_USEC");
    const auto process = number_in("WATCHDOG_PID");
    if (interval && *interval > 0 && (!process || *process == getpid())) {
        notify.watchdog_ = std::chrono::microseconds(*interval);
    }
    return notify;
}

bool Notify::send(std::string_view lines) const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const bool is_path = socket_.starts_with('/');
    if ((!is_path && !socket_.starts_with('@')) || socket_.size() >= sizeof(address.sun_path)) {
        return false;
    }
    std::memcpy(address.sun_path, socket_.data(), socket_.size());
    if (!is_path) address.sun_path[0] = '\0';  // an abstract name
    const Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
    return fd.valid() && sendto(fd.get(), lines.data(), lines.size(), MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&address),
                                length) == static_cast<ssize_t>(lines.size());
}

void Notify::reloading() const {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}",
                     std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000));
}

}  // namespace ashlar::cli
