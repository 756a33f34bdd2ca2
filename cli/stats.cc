// ashlar stats N: what a device's requests are and how long they take.
#include <fmt/format.h>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "base/units.h"
#include "cli/ask_metrics.h"
#include "cli/command.h"
#include "cli/json_text.h"
#include "cli/metrics_text.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

struct StatsOptions {
    std::string device;
    bool as_json = false;
    std::optional<double> interval{};  // seconds
    std::optional<std::uint64_t> count{};
};

constexpr int kLinesOfOneHeader = 20;

// ---- All of it, once ---------------------------------------------------------------------------

std::string times(const Histogram& histogram) {
    if (histogram.count() == 0) return {};
    std::string text;
    for (const double q : {0.5, 0.9, 0.99, 0.999}) {
        text += fmt::format(" {:>9}", format_nanoseconds(histogram.quantile(q)));
    }
    return text + fmt::format(" {:>9}", format_nanoseconds(histogram.max()));
}

void print_op(Op kind, const OpMetrics& op, double seconds) {
    const double rate = seconds > 0 ? static_cast<double>(op.count) / seconds : 0;
    const double bytes = seconds > 0 ? static_cast<double>(op.bytes) / seconds : 0;
    fmt::print("{:<14} {:>12} {:>8} {:>12} {:>8}{}\n", shown_name(kind), op.count,
               format_count(rate), format_size(static_cast<std::uint64_t>(bytes)), op.errors,
               times(op.latency));
    if (op.latency.count() == 0) return;
    fmt::print("{:<58}{}\n", "  waiting for others", times(op.waiting));
    fmt::print("{:<58}{}\n", "  in the backend", times(op.service));
}

void print_table(const DeviceInfo& info, const Metrics& metrics, std::uint64_t recoveries) {
    const double seconds = std::chrono::duration<double>(metrics.taken - metrics.from).count();
    const QueueMetrics total = metrics.total();
    fmt::print("/dev/ublkb{}, {:.1f} s\n", info.id, seconds);
    fmt::print("{:<14} {:>12} {:>8} {:>12} {:>8}", "", "COUNT", "/S", "BYTES/S", "ERRORS");
    if (metrics.timed) {
        fmt::print(" {:>9} {:>9} {:>9} {:>9} {:>9}", "P50", "P90", "P99", "P99.9", "MAX");
    }
    fmt::print("\n");
    for (std::size_t index = 0; index < kOpCount; ++index) {
        const auto kind = static_cast<Op>(index);
        if (total.ops[index].count == 0 && !is_usual(kind)) continue;
        print_op(kind, total.ops[index], seconds);
    }
    fmt::print("in flight {}", total.in_flight);
    if (total.batch.count() != 0) {
        fmt::print(", requests of one round: P50 {}, P99 {}, most {}", total.batch.quantile(0.5),
                   total.batch.quantile(0.99), total.batch.max());
    }
    fmt::print("\n");
    for (const BackendCounter& counter : metrics.backend) {
        fmt::print("{} {}: {}\n", counter.name, counter.value, counter.what);
    }
    fmt::print("recoveries {}\n", recoveries);
}

// ---- Again and again ---------------------------------------------------------------------------

void print_header() {
    fmt::print("{:>8} {:>8} {:>11} {:>11} {:>8} {:>9} {:>9} {:>9} {:>9} {:>6}\n", "READS/S",
               "WRITES/S", "READ/S", "WRITTEN/S", "OTHER/S", "READ P50", "READ P99", "WRITE P50",
               "WRITE P99", "ERRORS");
}

void print_line(const Metrics& metrics) {
    const double seconds = std::chrono::duration<double>(metrics.taken - metrics.from).count();
    const QueueMetrics total = metrics.total();
    const auto rate = [seconds](std::uint64_t count) {
        return seconds > 0 ? static_cast<double>(count) / seconds : 0;
    };
    const auto size = [&](std::uint64_t bytes) {
        return format_size(static_cast<std::uint64_t>(rate(bytes)));
    };
    const auto time = [](const Histogram& histogram, double q) {
        return histogram.count() == 0 ? "-" : format_nanoseconds(histogram.quantile(q));
    };
    const OpMetrics& reads = total[Op::read];
    const OpMetrics& writes = total[Op::write];
    std::uint64_t all = 0;
    for (const OpMetrics& op : total.ops) all += op.count;
    fmt::print("{:>8} {:>8} {:>11} {:>11} {:>8} {:>9} {:>9} {:>9} {:>9} {:>6}\n",
               format_count(rate(reads.count)), format_count(rate(writes.count)), size(reads.bytes),
               size(writes.bytes), format_count(rate(all - reads.count - writes.count)),
               time(reads.latency, 0.5), time(reads.latency, 0.99), time(writes.latency, 0.5),
               time(writes.latency, 0.99), total.errors());
}

nlohmann::ordered_json json_of(const DeviceInfo& info, const Metrics& metrics) {
    const auto state = read_state(info.id, info.identity);
    nlohmann::ordered_json json = {{"id", info.id},
                                   {"block_device", fmt::format("/dev/ublkb{}", info.id)}};
    json.update(summary_json(metrics));
    json["recoveries"] = state ? state->recoveries : 0;
    return json;
}

int follow(Control& control, const DeviceInfo& first, const StatsOptions& options) {
    auto last = ask_metrics(first);
    if (!last) return fail(last.error());
    for (std::uint64_t round = 0; round < options.count.value_or(UINT64_MAX); ++round) {
        std::this_thread::sleep_for(std::chrono::duration<double>(*options.interval));
        const auto info = control.info(first.id);
        if (!info) return fail(info.error());
        auto now = ask_metrics(*info);
        if (!now) return fail(now.error());
        const Metrics since = now->since(*last);
        if (options.as_json) {
            fmt::print("{}\n", json_text(json_of(*info, since)));
        } else {
            if (round % kLinesOfOneHeader == 0) print_header();
            print_line(since);
        }
        // A reader that has left ends it.
        if (std::fflush(stdout) != 0) return kFailure;
        *last = std::move(*now);
    }
    return kSuccess;
}

int stats(const StatsOptions& options) {
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    if (options.count && !options.interval) {
        complain("--count needs --interval");
        return kUsage;
    }
    auto control = Control::open();
    if (!control) return fail(control.error());
    const auto info = control->info(*id);
    if (!info) return fail(info.error());
    if (options.interval) return follow(*control, *info, options);
    const auto metrics = ask_metrics(*info);
    if (!metrics) return fail(metrics.error());
    if (options.as_json) {
        fmt::print("{}\n", json_text(json_of(*info, *metrics), 2));
    } else {
        const auto state = read_state(info->id, info->identity);
        print_table(*info, *metrics, state ? state->recoveries : 0);
    }
    return kSuccess;
}

}  // namespace

void stats_command(CLI::App& app, Action& action) {
    CLI::App& stats_app = *app.add_subcommand("stats", "Show what a device is doing");
    auto options = std::make_shared<StatsOptions>();
    stats_app.add_option("device", options->device, "Its number or path")
        ->required()
        ->type_name("N");
    stats_app
        .add_option("--interval", options->interval,
                    "Seconds: print a line each time, of what came since the last one")
        ->type_name("S")
        ->check(CLI::Range(0.01, 86'400.0));
    stats_app.add_option("--count", options->count, "Lines after which that ends; default: never")
        ->type_name("N")
        ->check(CLI::PositiveNumber);
    stats_app.add_flag("--json", options->as_json, "Print one JSON object, or one a line");
    stats_app.footer(
        "Without --interval: all since the server began to serve the device. Latencies are the\n"
        "server's: from the round that brought a request to its answer.\n"
        "\nExamples:\n  ashlar stats 0\n  ashlar stats 0 --interval 1 --count 10\n  ashlar stats 0 "
        "--json");
    stats_app.callback([options, &action] { action = [options] { return stats(*options); }; });
}

}  // namespace ashlar::cli
