#include "cli/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/fd.h"
#include "cli/command.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr timeval kClientTimeout{.tv_sec = 1, .tv_usec = 0};
constexpr auto kNodeTimeout = 10s;

// SIGTERM and SIGINT by descriptor; SIGHUP and SIGPIPE do nothing. Before any thread exists.
Result<Fd> take_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGHUP, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    Fd fd(signalfd(-1, &set, SFD_CLOEXEC));
    if (!fd.valid()) return std::unexpected(Error{.operation = "signalfd", .code = errno});
    return fd;
}

Result<Fd> listen_on(const std::string& path) {
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    unlink(path.c_str());
    if (!fd.valid() ||
        bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        chmod(path.c_str(), 0600) != 0 || listen(fd.get(), 16) != 0) {
        return std::unexpected(Error{.operation = "listen on " + path, .code = errno});
    }
    return fd;
}

// The node appears by devtmpfs at once, by udev a moment later. It is not opened: a server that
// opens its own device can wait for itself.
Result<void> await_node(const std::string& path) {
    const auto deadline = std::chrono::steady_clock::now() + kNodeTimeout;
    struct stat node {};
    while (stat(path.c_str(), &node) != 0) {
        if (std::chrono::steady_clock::now() >= deadline) {
            return std::unexpected(
                Error{.operation = "wait for " + path,
                      .code = ETIMEDOUT,
                      .detail = "the kernel has the device, but no node appeared",
                      .hint = "is devtmpfs mounted on /dev, or udev running?"});
        }
        std::this_thread::sleep_for(1ms);
    }
    return {};
}

nlohmann::json counters_json(const Device& device) {
    auto queues = nlohmann::json::array();
    for (const QueueCounters& queue : device.counters()) {
        queues.push_back({{"reads", queue.reads},
                          {"writes", queue.writes},
                          {"flushes", queue.flushes},
                          {"discards", queue.discards},
                          {"write_zeroes", queue.write_zeroes},
                          {"others", queue.others},
                          {"read_bytes", queue.read_bytes},
                          {"write_bytes", queue.write_bytes},
                          {"errors", queue.errors}});
    }
    return queues;
}

void answer_client(int listener, const Device& device) {
    const Fd client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &kClientTimeout, sizeof(kClientTimeout));
    setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &kClientTimeout, sizeof(kClientTimeout));
    const auto request = receive_line(client.get());
    if (!request) return;
    nlohmann::json reply;
    if (request->is_object() && request->value("request", "") == "counters") {
        reply = {{"queues", counters_json(device)}};
    } else {
        reply = {{"error", "unknown request"}};
    }
    // A client that left early misses its own answer only.
    static_cast<void>(send_line(client.get(), reply));
}

enum class End { signalled, stopped };

// Answers questions until there is a reason to end.
End serve_clients(const Device& device, int signals, int listener, int stopped) {
    std::array<pollfd, 3> fds = {
        {{signals, POLLIN, 0}, {stopped, POLLIN, 0}, {listener, POLLIN, 0}}};
    while (true) {
        if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
        if (fds[1].revents != 0) return End::stopped;
        if (fds[0].revents != 0) return End::signalled;
        if (fds[2].revents != 0) answer_client(listener, device);
    }
}

struct Served {
    Device device;
    Fd listener;
};

Result<Served> bring_up(const ServerJob& job) {
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    auto backend = job.open_backend();
    if (!backend) return std::unexpected(backend.error());
    auto device = Device::create(*backend, job.device);
    if (!device) return std::unexpected(device.error());
    const DeviceId id = device->info().id;
    auto listener = listen_on(socket_path(id));
    if (!listener) return std::unexpected(listener.error());
    Result<void> step = device->start();
    if (step) step = await_node(device->block_path());
    if (step) step = write_state({.id = id, .pid = getpid(), .type = job.type});
    if (!step) {
        remove_state(id);
        return std::unexpected(step.error());
    }
    return Served{.device = std::move(*device), .listener = std::move(*listener)};
}

int take_down(Device& device, const Log& log) {
    const DeviceId id = device.info().id;
    auto removed = device.remove();
    remove_state(id);
    if (!removed) {
        log.write(Level::error, removed.error().message());
        return kFailure;
    }
    log.write(Level::info, "removed");
    return kSuccess;
}

}  // namespace

int run_server(const ServerJob& job, Log log, const Announce& announce) {
    auto signals = take_signals();
    auto served = signals ? bring_up(job) : Result<Served>(std::unexpected(signals.error()));
    if (!served) {
        log.write(Level::error, served.error().message());
        static_cast<void>(announce(std::unexpected(served.error())));
        return kFailure;
    }
    Device& device = served->device;
    log.set_subject(fmt::format("ublk{}", device.info().id));
    log.write(Level::info, fmt::format("serving {} at {}", job.type, device.block_path()));
    if (!announce(device.info().id)) {
        log.write(Level::warning, "the command that started this server is gone");
        static_cast<void>(take_down(device, log));
        return kFailure;
    }

    const Fd stopped(eventfd(0, EFD_CLOEXEC));
    Result<void> outcome;
    std::thread waiter([&] {
        outcome = device.wait();
        const std::uint64_t one = 1;
        static_cast<void>(write(stopped.get(), &one, sizeof(one)) == sizeof(one));
    });
    const End end = serve_clients(device, signals->get(), served->listener.get(), stopped.get());
    if (end == End::signalled) {
        log.write(Level::info, "asked to end");
        const int status = take_down(device, log);
        // A device that could not be stopped leaves the waiter behind; the process ends anyway.
        if (status != kSuccess) _exit(status);
        waiter.join();
        return status;
    }
    waiter.join();
    if (!outcome) {
        // The block device is gone; what is left shows as dead, for the operator to see.
        log.write(Level::error, outcome.error().message());
        remove_state(device.info().id);
        _exit(kFailure);
    }
    log.write(Level::info, "stopped");
    return take_down(device, log);
}

}  // namespace ashlar::cli
