// ashlar export: the metrics of all devices, for Prometheus.
#include <fmt/format.h>
#include <netdb.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/fd.h"
#include "cli/ask_metrics.h"
#include "cli/command.h"
#include "cli/prometheus_families.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

struct ExportOptions {
    std::string listen = "127.0.0.1:9857";
    bool once = false;
};

Result<std::vector<ExportedDevice>> look() {
    auto control = Control::open();
    if (!control) return std::unexpected(control.error());
    const auto devices = control->list();
    if (!devices) return std::unexpected(devices.error());
    std::vector<ExportedDevice> all;
    for (const DeviceInfo& info : *devices) {
        auto report = report_device(*control, info);
        if (!report) continue;  // removed meanwhile
        const auto state = read_state(info.id, info.identity);
        std::optional<Metrics> metrics;
        if (state) {
            if (auto asked = ask_metrics(info)) metrics = std::move(*asked);
        }
        all.push_back({.report = std::move(*report),
                       .metrics = std::move(metrics),
                       .recoveries = state ? state->recoveries : 0});
    }
    return all;
}

// Asked by the library's threads.
class Devices final : public prometheus::Collectable {
public:
    [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override {
        const auto devices = look();
        if (!devices) {
            complain(devices.error().message());
            return {};
        }
        return families_of(*devices);
    }
};

// The library says no more than that it cannot listen: why, is found out here.
Result<void> check_address(const std::string& address) {
    const auto failed = [&](int code, std::string detail, std::string hint) {
        return std::unexpected(Error{.operation = "listen on " + address,
                                     .code = code,
                                     .detail = std::move(detail),
                                     .hint = std::move(hint)});
    };
    const std::string allowed = "write ADDRESS:PORT, such as 127.0.0.1:9857 or [::]:9857";
    const auto colon = address.rfind(':');
    if (colon == std::string::npos) return failed(EINVAL, "it has no port", allowed);
    std::string host = address.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    addrinfo wanted{};
    wanted.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;
    wanted.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &wanted, &found) != 0) {
        return failed(EINVAL, "that is no address of numbers", allowed);
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
    const Fd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (!fd.valid() || bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 ||
        ::listen(fd.get(), 1) != 0) {
        return failed(errno, {}, errno == EADDRINUSE ? "another program has it; name another" : "");
    }
    return {};
}

int export_metrics(const ExportOptions& options) {
    if (options.once) {
        const auto devices = look();
        if (!devices) return fail(devices.error());
        const std::string text = prometheus::TextSerializer().Serialize(families_of(*devices));
        fmt::print("{}", text);
        return kSuccess;
    }
    if (auto usable = check_address(options.listen); !usable) {
        complain(usable.error().message());
        return usable.error().code == EINVAL ? kUsage : kFailure;
    }
    // Before the library's threads begin, so that it is this one that gets them.
    sigset_t ends;
    sigemptyset(&ends);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ends, signal);
    sigprocmask(SIG_BLOCK, &ends, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    const auto devices = std::make_shared<Devices>();
    prometheus::Exposer exposer(options.listen);
    exposer.RegisterCollectable(devices);
    fmt::print("http://{}/metrics\n", options.listen);
    std::fflush(stdout);
    int signal = 0;
    sigwait(&ends, &signal);
    return kSuccess;
}

}  // namespace

void export_command(CLI::App& app, Action& action) {
    CLI::App& export_app =
        *app.add_subcommand("export", "Serve the metrics of all devices to Prometheus");
    auto options = std::make_shared<ExportOptions>();
    export_app
        .add_option("--listen", options->listen,
                    "Where, as numbers; /metrics is asked for there; default: 127.0.0.1:9857")
        ->type_name("ADDRESS:PORT");
    export_app.add_flag("--once", options->once, "Print them once instead, as for a file");
    export_app.footer(
        "Examples:\n"
        "  ashlar export --listen 0.0.0.0:9857\n"
        "  ashlar export --once > /var/lib/prometheus/node-exporter/ashlar.prom");
    export_app.callback(
        [options, &action] { action = [options] { return export_metrics(*options); }; });
}

}  // namespace ashlar::cli
