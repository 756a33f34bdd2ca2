// What a service manager is told (systemd's sd_notify protocol: a datagram to $NOTIFY_SOCKET).
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace ashlar::cli {

// Says nothing where nobody listens. Thread: any.
class Notify {
public:
    // From $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID.
    [[nodiscard]] static Notify from_environment();

    // "READY=1\nSTATUS=...": lines of the protocol. False when it could not be told.
    bool send(std::string_view lines) const;
    void reloading() const;  // with the time that the protocol wants
    // How often WATCHDOG=1 is expected, at the latest; none: never.
    [[nodiscard]] std::optional<std::chrono::microseconds> watchdog() const { return watchdog_; }

private:
    std::string socket_;
    std::optional<std::chrono::microseconds> watchdog_;
};

}  // namespace ashlar::cli
