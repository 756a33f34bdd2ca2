#include "cli/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>

#include "base/fd.h"
#include "cli/command.h"
#include "cli/protection.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

// Clients are served one at a time by the thread that also hears signals: none may hold it long.
constexpr timeval kClientTimeout{.tv_sec = 0, .tv_usec = 500'000};
constexpr auto kRequestTimeout = 500ms;
constexpr std::size_t kRequestMax = 4096;
constexpr auto kNodeTimeout = 10s;

// SIGTERM, SIGINT and SIGQUIT by descriptor; SIGHUP and SIGPIPE do nothing. Before any thread
// exists.
Result<Fd> take_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGHUP, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    Fd fd(signalfd(-1, &set, SFD_CLOEXEC));
    if (!fd.valid()) return std::unexpected(Error{.operation = "signalfd", .code = errno});
    return fd;
}

Result<Fd> listen_on(const std::string& path) {
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return std::unexpected(Error{.operation = "make a socket", .code = errno});
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        chmod(path.c_str(), 0600) != 0 || listen(fd.get(), 16) != 0) {
        return std::unexpected(Error{.operation = "listen on " + path, .code = errno});
    }
    return fd;
}

// The id is ours now: what lies there under its name is of a device that is gone.
Result<Fd> claim_socket(DeviceId id) {
    const StateLock lock;
    remove_orphaned_state(id);
    return listen_on(socket_path(id));
}

bool is_block_device(const std::string& path, const DeviceParams& params) {
    struct stat node{};
    return stat(path.c_str(), &node) == 0 && S_ISBLK(node.st_mode) &&
           node.st_rdev == makedev(params.disk_major, params.disk_minor);
}

// The node appears by devtmpfs at once, by udev a moment later. It is not opened: a server that
// opens its own device can wait for itself.
Result<void> await_node(DeviceId id, const std::string& path) {
    auto control = Control::open();
    if (!control) return std::unexpected(control.error());
    const auto params = control->params(id);
    if (!params) return std::unexpected(params.error());
    const auto deadline = std::chrono::steady_clock::now() + kNodeTimeout;
    while (!is_block_device(path, *params)) {
        struct stat other{};
        if (stat(path.c_str(), &other) == 0 && !S_ISBLK(other.st_mode)) {
            return std::unexpected(Error{.operation = "look at " + path,
                                         .code = EEXIST,
                                         .detail = "something else has this name",
                                         .hint = "remove it, then try again"});
        }
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

// How the device is served.
nlohmann::json info_json(const Device& device, const DeviceOptions& options,
                         const Protections& protections) {
    const DeviceChoices& choices = device.choices();
    nlohmann::json polling = nullptr;
    if (options.polling) {
        polling = {{"cpu", nullptr}, {"idle_ms", options.polling->idle.count()}};
        if (options.polling->cpu) polling["cpu"] = *options.polling->cpu;
    }
    return {
        {"data_path", name(choices.data_path)}, {"data_path_reason", choices.data_path_reason},
        {"commands", name(choices.commands)},   {"commands_reason", choices.commands_reason},
        {"threads", choices.threads},           {"threads_per_queue", options.threads_per_queue},
        {"submission_polling", polling},        {"protections", to_json(protections.all())}};
}

nlohmann::json answer(const nlohmann::json& request, const Device& device,
                      const DeviceOptions& options, const Protections& protections) {
    const auto asked = request.is_object() ? request.find("request") : request.end();
    if (asked == request.end()) return nlohmann::json::object({{"error", "no request"}});
    if (*asked == "counters") return nlohmann::json::object({{"queues", counters_json(device)}});
    if (*asked == "info") return info_json(device, options, protections);
    return nlohmann::json::object({{"error", "unknown request"}});
}

void answer_client(int listener, const Device& device, const DeviceOptions& options,
                   const Protections& protections) {
    const Fd client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) {
        // Out of descriptors or memory: the client stays in line, so do not ask again at once.
        if (errno != EAGAIN && errno != ECONNABORTED) std::this_thread::sleep_for(50ms);
        return;
    }
    setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &kClientTimeout, sizeof(kClientTimeout));
    const auto request = receive_line(client.get(), kRequestTimeout, kRequestMax);
    if (!request) return;
    // A client that left early misses its own answer only.
    static_cast<void>(send_line(client.get(), answer(*request, device, options, protections)));
}

enum class End { signalled, stopped };

// Answers questions until there is a reason to end.
End serve_clients(const Device& device, const DeviceOptions& options,
                  const Protections& protections, int signals, int listener, int stopped) {
    std::array<pollfd, 3> fds = {
        {{signals, POLLIN, 0}, {stopped, POLLIN, 0}, {listener, POLLIN, 0}}};
    while (true) {
        if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
        if (fds[1].revents != 0) return End::stopped;
        if (fds[0].revents != 0) return End::signalled;
        if (fds[2].revents != 0) answer_client(listener, device, options, protections);
    }
}

struct Served {
    Device device;
    Fd listener;
    Protections protections;
};

Result<Served> bring_up(const ServerJob& job) {
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    Protections protections;
    protections.before_backend();
    auto backend = job.open_backend();
    if (!backend) return std::unexpected(backend.error());
    protections.after_backend();
    auto device = Device::create(*backend, job.device);
    if (!device) return std::unexpected(device.error());
    const DeviceId id = device->info().id;
    auto listener = claim_socket(id);
    if (!listener) return std::unexpected(listener.error());
    Result<void> step = device->start();
    if (step) step = await_node(id, device->block_path());
    if (step) {
        step = write_state({.id = id,
                            .identity = device->info().identity,
                            .pid = getpid(),
                            .type = job.type,
                            .backend = job.backend});
    }
    if (!step) {
        remove_orphaned_state(id);
        return std::unexpected(step.error());
    }
    return Served{.device = std::move(*device),
                  .listener = std::move(*listener),
                  .protections = std::move(protections)};
}

// Waits for the device's end on a thread of its own, and tells by a descriptor.
class Waiter {
public:
    // Throws std::system_error when there is no thread to be had.
    Waiter(Device& device, int told)
        : thread_([this, &device, told] {
              outcome_ = device.wait();
              const std::uint64_t one = 1;
              static_cast<void>(write(told, &one, sizeof(one)) == sizeof(one));
          }),
          device_(device) {}
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    // Takes the device away if it is still there: nothing else ends the wait.
    ~Waiter() {
        if (!thread_.joinable()) return;
        static_cast<void>(device_.remove());
        thread_.join();
    }
    const Result<void>& outcome() {
        thread_.join();
        return outcome_;
    }

private:
    Result<void> outcome_;
    std::thread thread_;
    Device& device_;
};

int take_down(Device& device, const Log& log) {
    const auto removed = device.remove();
    if (device.stage() == DeviceStage::removed) {
        remove_state(device.info().id, device.info().identity);
    }
    if (!removed) {
        log.write(Level::error, removed.error().message());
        return kFailure;
    }
    log.write(Level::info, "removed");
    return kSuccess;
}

int serve_until_the_end(const ServerJob& job, Served& served, int signals, Log& log,
                        const Announce& announce) {
    Device& device = served.device;
    log.set_subject(fmt::format("ublk{}", device.info().id));
    log.write(Level::info, fmt::format("serving {} at {}", job.type, device.block_path()));
    for (const Protection& each : served.protections.all()) {
        if (!each.active) log.write(Level::warning, each.name + ": " + each.detail);
    }
    const Fd stopped(eventfd(0, EFD_CLOEXEC));
    if (!stopped.valid()) throw std::system_error(errno, std::generic_category(), "eventfd");
    Waiter waiter(device, stopped.get());
    if (!announce(device.info().id)) {
        log.write(Level::warning, "the command that started this server is gone");
        static_cast<void>(take_down(device, log));
        return kFailure;
    }
    const End end = serve_clients(device, job.device, served.protections, signals,
                                  served.listener.get(), stopped.get());
    if (end == End::signalled) {
        log.write(Level::info, "asked to end");
        return take_down(device, log);
    }
    if (const auto& outcome = waiter.outcome(); !outcome) {
        log.write(Level::error, outcome.error().message());
        static_cast<void>(take_down(device, log));
        return kFailure;
    }
    log.write(Level::info, "stopped");
    return take_down(device, log);
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
    try {
        return serve_until_the_end(job, *served, signals->get(), log, announce);
    } catch (const std::exception& error) {
        log.write(Level::error, error.what());
        remove_state(served->device.info().id, served->device.info().identity);
        return kFailure;
    }
}

}  // namespace ashlar::cli
