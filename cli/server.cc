#include "cli/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
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
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>

#include "base/fd.h"
#include "base/thread_scheduling.h"
#include "cli/backend_table.h"
#include "cli/bring_up.h"
#include "cli/command.h"
#include "cli/device_spec.h"
#include "cli/metrics_text.h"
#include "cli/outside.h"
#include "cli/server_state.h"
#include "cli/signals.h"
#include "cli/store_check.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

// Clients are served one at a time by the thread that also hears signals: none may hold it long.
constexpr timeval kClientTimeout{.tv_sec = 0, .tv_usec = 500'000};
constexpr auto kRequestTimeout = 500ms;
constexpr std::size_t kRequestMax = 4096;

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
        {"submission_polling", polling},        {"busy_poll_us", options.busy_poll.count()},
        {"recovery", name(options.recovery)},   {"protections", to_json(protections.all())}};
}

struct Answer {
    nlohmann::json text;
    Outcome outcome = Outcome::serves;
};

Answer refuse(const Error& error) {
    return {.text = {{"error", error.message()}, {"code", error.code}}};
}

// Who asks. 0: it cannot be told.
std::int32_t process_of(int client) {
    ucred peer{};
    socklen_t length = sizeof(peer);
    return getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? peer.pid : 0;
}

// The device goes on without this server, or waits to be recovered: what it takes is left there.
// client: where the next server will be, too.
Answer leave(const nlohmann::json& request, const ServerJob& job, Served& served, const Log& log,
             int client) {
    Device& device = served.device;
    const std::string how = request.value("request", "");
    const bool if_unused = request.value("if_unused", nlohmann::json()) == true;
    const auto stays = look_as(process_of(client), [&] {
        return check_store_stays(device.info().id, job.spec, *served.backend);
    });
    if (!stays) return refuse(stays.error());
    // First, for otherwise a supervisor would bring it back at once.
    auto state = read_state(device.info().id, device.info().identity);
    if (state && request.value("pause", nlohmann::json()) == true) {
        state->paused = true;
        if (auto written = write_state(*state); !written) return refuse(written.error());
    }
    const auto left = how == "quiesce" ? device.quiesce()
                      : if_unused      ? device.stop_if_unused()
                                       : device.stop();
    if (!left) {
        if (state && state->paused) {
            state->paused = false;
            static_cast<void>(write_state(*state));
        }
        return refuse(left.error());
    }
    device.detach();
    log.write(Level::info, how == "quiesce" ? "quiesced" : "stopped; the device stays");
    return {.text = {{"left", true}}, .outcome = Outcome::left};
}

// What is said in `spec` of a size, after the disk has got another.
void put_size(Spec& spec, std::uint64_t size) {
    for (SpecOption& option : spec.options) {
        if (option.key == "size" || option.key == "length") option.value = std::to_string(size);
    }
}

Answer resize(const nlohmann::json& request, ServerJob& job, Served& served, const Log& log) {
    const auto wanted = request.find("size");
    if (wanted == request.end() || !wanted->is_number_unsigned()) {
        return {.text = {{"error", "no size"}}};
    }
    const auto size = wanted->get<std::uint64_t>();
    if (auto done = resize_served(job, served, size, log); !done) return refuse(done.error());
    return {.text = {{"size", size}}};
}

// The device's threads from now on, and those of its next server.
Result<void> set_cpus(const std::string& key, const std::string& lists, ServerJob& job,
                      Served& served) {
    std::vector<SpecOption> options = job.options;
    std::erase_if(options, [](const SpecOption& option) {
        return option.key == "cpus" || option.key == "queue-cpus";
    });
    if (!lists.empty()) options.push_back({.key = key, .value = lists});
    const auto device = read_device_options({.type = {}, .options = options});
    if (!device) {
        return std::unexpected(
            Error{.operation = "choose CPUs", .code = EINVAL, .detail = device.error()});
    }
    if (auto done = served.device.set_cpus(device->cpus); !done) return done;
    job.options = options;
    job.device.cpus = device->cpus;
    auto state = read_state(served.device.info().id, served.device.info().identity);
    if (!state) return {};
    state->options = options;
    return write_state(*state);
}

std::optional<std::string> word(const nlohmann::json& json, const char* key) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    if (found == json.end() || !found->is_string()) return std::nullopt;
    return found->get<std::string>();
}

Answer set(const nlohmann::json& request, ServerJob& job, Served& served, const Log& log) {
    if (const auto cpus = request.find("cpus"); cpus != request.end()) {
        const auto lists = word(*cpus, "lists");
        const std::string key = word(*cpus, "key").value_or("");
        const bool known = key == "cpus" || key == "queue-cpus" || (lists && lists->empty());
        if (!lists || !known) return {.text = {{"error", "no CPUs"}}};
        if (auto done = set_cpus(key, *lists, job, served); !done) return refuse(done.error());
        log.write(Level::info, "runs on other CPUs: " + *lists);
    }
    if (const auto level = request.find("log_level"); level != request.end()) {
        const auto least = level->is_string() ? level_of(level->get<std::string>()) : std::nullopt;
        if (!least) return {.text = {{"error", "unknown log level"}}};
        log.set_least(*least);
    }
    return {.text = {{"set", true}}};
}

Answer answer(const nlohmann::json& request, ServerJob& job, Served& served, const Log& log,
              int client) {
    const auto asked = request.is_object() ? request.find("request") : request.end();
    if (asked == request.end()) return {.text = {{"error", "no request"}}};
    if (*asked == "metrics") return {.text = metrics_to_json(served.device.metrics())};
    if (*asked == "info") return {.text = info_json(served.device, job.device, served.protections)};
    if (*asked == "set") return set(request, job, served, log);
    if (*asked == "resize") return resize(request, job, served, log);
    if (*asked == "quiesce" || *asked == "stop") return leave(request, job, served, log, client);
    return {.text = {{"error", "unknown request"}}};
}

// Nothing that a client asks ends the server.
Answer answer_or_refuse(const nlohmann::json& request, ServerJob& job, Served& served,
                        const Log& log, int client) {
    try {
        return answer(request, job, served, log, client);
    } catch (const std::exception& error) {
        log.write(Level::error, error.what());
        return {.text = {{"error", error.what()}}};
    }
}

}  // namespace

Result<void> resize_served(ServerJob& job, Served& served, std::uint64_t size, const Log& log) {
    Device& device = served.device;
    auto done = device.resize(size);
    // Whether or not all of it was done: the next server must find what there is.
    if (auto state = read_state(device.info().id, device.info().identity)) {
        state->size = served.backend->geometry().size;
        put_size(job.spec, state->size);
        state->backend = format_spec(spec_to_reopen(job.spec, grammar()));
        if (auto written = write_state(*state); !written) {
            log.write(Level::error, written.error().message());
            if (done) done = std::move(written);
        }
    }
    if (done) log.write(Level::info, fmt::format("resized to {} bytes", size));
    return done;
}

Outcome answer_client(ServerJob& job, Served& served, const Log& log) {
    const Fd client(accept4(served.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) {
        // Out of descriptors or memory: the client stays in line, so do not ask again at once.
        if (errno != EAGAIN && errno != ECONNABORTED) std::this_thread::sleep_for(50ms);
        return Outcome::serves;
    }
    setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &kClientTimeout, sizeof(kClientTimeout));
    const auto request = receive_line(client.get(), kRequestTimeout, kRequestMax);
    if (!request) return Outcome::serves;
    const Answer given = answer_or_refuse(*request, job, served, log, client.get());
    // A client that left early misses its own answer only.
    static_cast<void>(send_line(client.get(), given.text));
    return given.outcome;
}

namespace {

enum class End { signalled, stopped, left };

// Answers questions until there is a reason to end.
End serve_clients(ServerJob& job, Served& served, const Log& log, int signals, int stopped) {
    std::array<pollfd, 3> fds = {
        {{signals, POLLIN, 0}, {stopped, POLLIN, 0}, {served.listener.get(), POLLIN, 0}}};
    while (true) {
        if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
        if (fds[1].revents != 0) return End::stopped;
        if (fds[0].revents != 0) return End::signalled;
        if (fds[2].revents == 0) continue;
        if (answer_client(job, served, log) == Outcome::left) return End::left;
    }
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

// The threads of a device with recovery still serve, and only their end lets go of it: the kernel
// sees a server that was killed, and the device waits for the next one.
[[noreturn]] void end_as_if_killed(const Log& log, std::string_view why) {
    log.write(Level::error, why);
    log.write(Level::warning, "this server ends; the device waits for another");
    std::fflush(nullptr);
    std::_Exit(kFailure);
}

// With recovery the device waits for the next server.
int leave_behind(Device& device, const Log& log) {
    device.detach();
    log.write(Level::warning, "the device waits for another server");
    return kFailure;
}

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

// Answers questions, and then takes the device away or leaves it.
int serve(ServerJob& job, Served& served, int signals, int stopped, Waiter& waiter,
          const Log& log) {
    Device& device = served.device;
    const End end = serve_clients(job, served, log, signals, stopped);
    if (end == End::left) {
        static_cast<void>(waiter.outcome());
        return kSuccess;
    }
    if (end == End::signalled) {
        log.write(Level::info, "asked to end");
        return take_down(device, log);
    }
    if (const auto& outcome = waiter.outcome(); !outcome) {
        log.write(Level::error, outcome.error().message());
        if (job.device.recovery != Recovery::none) return leave_behind(device, log);
        static_cast<void>(take_down(device, log));
        return kFailure;
    }
    log.write(Level::info, "stopped");
    return take_down(device, log);
}

int serve_until_the_end(ServerJob& job, Served& served, int signals, Log& log, const Ready& ready) {
    Device& device = served.device;
    log.set_subject(fmt::format("ublk{}", device.info().id));
    log.write(Level::info, fmt::format("serving {} at {}", job.spec.type, device.block_path()));
    for (const Protection& each : served.protections.all()) {
        if (!each.active) log.write(Level::warning, each.name + ": " + each.detail);
    }
    const Fd stopped(eventfd(0, EFD_CLOEXEC));
    if (!stopped.valid()) throw std::system_error(errno, std::generic_category(), "eventfd");
    Waiter waiter(device, stopped.get());
    bool is_known = job.recovered.has_value();
    try {
        if (!ready(device.info().id) && !is_known) {
            log.write(Level::warning, "the command that started this server is gone");
            static_cast<void>(take_down(device, log));
            return kFailure;
        }
        is_known = true;
        return serve(job, served, signals, stopped.get(), waiter, log);
    } catch (const std::exception& error) {
        // Before the waiter ends, which takes the device away.
        if (is_known && job.device.recovery != Recovery::none) end_as_if_killed(log, error.what());
        throw;
    }
}

}  // namespace

int run_server(ServerJob job, Log log, const Ready& ready) {
    std::signal(SIGHUP, SIG_IGN);
    auto signals = take_signals({SIGTERM, SIGINT, SIGQUIT});
    auto served = signals ? bring_up(job, log) : Result<Served>(std::unexpected(signals.error()));
    if (!served) {
        log.write(Level::error, served.error().message());
        static_cast<void>(ready(std::unexpected(served.error())));
        return kFailure;
    }
    // This thread answers for the disk: it comes when the disk's own do, or they keep it waiting.
    set_thread_nice(job.device.nice);
    try {
        return serve_until_the_end(job, *served, signals->get(), log, ready);
    } catch (const std::exception& error) {
        if (job.recovered && job.device.recovery != Recovery::none) {
            end_as_if_killed(log, error.what());
        }
        log.write(Level::error, error.what());
        remove_state(served->device.info().id, served->device.info().identity);
        return kFailure;
    }
}

}  // namespace ashlar::cli
