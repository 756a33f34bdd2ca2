#include "cli/metrics_text.h"

#include <fmt/format.h>
#include <array>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace ashlar::cli {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
using nlohmann::ordered_json;

// Thrown for what makes no sense, within this file.
struct Senseless {};

std::uint64_t number(const json& from, const char* key) {
    const auto found = from.find(key);
    if (found == from.end() || !found->is_number_unsigned()) throw Senseless();
    return found->get<std::uint64_t>();
}

const json& member(const json& from, const char* key) {
    const auto found = from.find(key);
    if (found == from.end()) throw Senseless();
    return *found;
}

// Buckets that are not empty, each as [number, count].
json histogram_to_json(const Histogram& histogram) {
    auto buckets = json::array();
    for (std::size_t bucket = 0; bucket < histogram.buckets().size(); ++bucket) {
        const std::uint64_t count = histogram.buckets()[bucket];
        if (count != 0) buckets.push_back({bucket, count});
    }
    return {{"sum", histogram.sum()}, {"max", histogram.max()}, {"buckets", std::move(buckets)}};
}

Histogram histogram_from_json(const json& from) {
    std::vector<std::uint64_t> buckets(Histogram::kBuckets);
    for (const json& each : member(from, "buckets")) {
        if (!each.is_array() || each.size() != 2 || !each[0].is_number_unsigned() ||
            !each[1].is_number_unsigned() || each[0].get<std::uint64_t>() >= buckets.size()) {
            throw Senseless();
        }
        buckets[each[0].get<std::size_t>()] = each[1].get<std::uint64_t>();
    }
    return Histogram::from(std::move(buckets), number(from, "sum"), number(from, "max"));
}

constexpr std::array kHistograms = {
    std::pair{"latency", &OpMetrics::latency}, std::pair{"waiting", &OpMetrics::waiting},
    std::pair{"service", &OpMetrics::service}, std::pair{"size", &OpMetrics::size}};

json queue_to_json(const QueueMetrics& queue) {
    json ops = json::object();
    for (std::size_t index = 0; index < kOpCount; ++index) {
        const OpMetrics& op = queue.ops[index];
        if (op.count == 0) continue;
        json& one = ops[std::string(name(static_cast<Op>(index)))];
        one = {{"count", op.count}, {"bytes", op.bytes}, {"errors", op.errors}};
        for (const auto& [key, histogram] : kHistograms) {
            if ((op.*histogram).count() != 0) one[key] = histogram_to_json(op.*histogram);
        }
    }
    return {{"ops", std::move(ops)},
            {"in_flight", queue.in_flight},
            {"batch", histogram_to_json(queue.batch)}};
}

QueueMetrics queue_from_json(const json& from) {
    QueueMetrics queue;
    const json& ops = member(from, "ops");
    for (std::size_t index = 0; index < kOpCount; ++index) {
        const auto found = ops.find(std::string(name(static_cast<Op>(index))));
        if (found == ops.end()) continue;
        OpMetrics& op = queue.ops[index];
        op.count = number(*found, "count");
        op.bytes = number(*found, "bytes");
        op.errors = number(*found, "errors");
        for (const auto& [key, histogram] : kHistograms) {
            if (found->contains(key)) op.*histogram = histogram_from_json((*found)[key]);
        }
    }
    queue.in_flight = number(from, "in_flight");
    queue.batch = histogram_from_json(member(from, "batch"));
    return queue;
}

std::uint64_t to_number(Clock::time_point time) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}
Clock::time_point to_time(std::uint64_t nanoseconds) {
    return Clock::time_point(std::chrono::nanoseconds(static_cast<std::int64_t>(nanoseconds)));
}

}  // namespace

json metrics_to_json(const Metrics& metrics) {
    json all = {{"began", to_number(metrics.began)}, {"from", to_number(metrics.from)},
                {"taken", to_number(metrics.taken)}, {"timed", metrics.timed},
                {"queues", json::array()},           {"backend", json::array()}};
    for (const QueueMetrics& queue : metrics.queues) all["queues"].push_back(queue_to_json(queue));
    for (const BackendCounter& counter : metrics.backend) {
        all["backend"].push_back(
            {{"name", counter.name}, {"value", counter.value}, {"what", counter.what}});
    }
    return all;
}

std::optional<Metrics> metrics_from_json(const json& from) {
    try {
        Metrics metrics{.began = to_time(number(from, "began")),
                        .from = to_time(number(from, "from")),
                        .taken = to_time(number(from, "taken")),
                        .timed = member(from, "timed").get<bool>(),
                        .queues = {},
                        .backend = {}};
        for (const json& queue : member(from, "queues")) {
            metrics.queues.push_back(queue_from_json(queue));
        }
        for (const json& counter : member(from, "backend")) {
            metrics.backend.push_back({.name = member(counter, "name").get<std::string>(),
                                       .value = number(counter, "value"),
                                       .what = member(counter, "what").get<std::string>()});
        }
        return metrics;
    } catch (const Senseless&) {
        return std::nullopt;
    } catch (const json::exception&) {
        return std::nullopt;
    }
}

// ---- For scripts -------------------------------------------------------------------------------

bool is_usual(Op op) noexcept {
    return op == Op::read || op == Op::write || op == Op::flush || op == Op::discard ||
           op == Op::write_zeroes;
}

std::string_view shown_name(Op op) noexcept { return op == Op::unknown ? "other" : name(op); }

namespace {

ordered_json percentiles(const Histogram& histogram) {
    return {{"mean", static_cast<std::uint64_t>(histogram.mean())},
            {"p50", histogram.quantile(0.5)},
            {"p90", histogram.quantile(0.9)},
            {"p99", histogram.quantile(0.99)},
            {"p99_9", histogram.quantile(0.999)},
            {"max", histogram.max()}};
}

ordered_json queue_summary(const QueueMetrics& queue, double seconds, bool timed) {
    ordered_json summary;
    for (std::size_t index = 0; index < kOpCount; ++index) {
        const OpMetrics& op = queue.ops[index];
        const auto kind = static_cast<Op>(index);
        if (op.count == 0 && !is_usual(kind)) continue;
        ordered_json one = {{"count", op.count}, {"bytes", op.bytes}, {"errors", op.errors}};
        if (seconds > 0) {
            one["per_second"] = static_cast<double>(op.count) / seconds;
            one["bytes_per_second"] = static_cast<double>(op.bytes) / seconds;
        }
        if (timed) {
            one["latency_ns"] = percentiles(op.latency);
            one["waiting_ns"] = percentiles(op.waiting);
            one["service_ns"] = percentiles(op.service);
            if (kind != Op::flush) one["size_bytes"] = percentiles(op.size);
        }
        summary[std::string(shown_name(kind))] = std::move(one);
    }
    summary["in_flight"] = queue.in_flight;
    if (timed) summary["requests_per_round"] = percentiles(queue.batch);
    return summary;
}

}  // namespace

ordered_json summary_json(const Metrics& metrics) {
    const double seconds = std::chrono::duration<double>(metrics.taken - metrics.from).count();
    ordered_json summary = {{"seconds", seconds}, {"timed", metrics.timed}};
    summary.update(queue_summary(metrics.total(), seconds, metrics.timed));
    ordered_json backend = ordered_json::object();
    for (const BackendCounter& counter : metrics.backend) backend[counter.name] = counter.value;
    summary["backend"] = std::move(backend);
    auto queues = ordered_json::array();
    for (const QueueMetrics& queue : metrics.queues) {
        queues.push_back(queue_summary(queue, seconds, metrics.timed));
    }
    summary["queues"] = std::move(queues);
    return summary;
}

ordered_json counts_json(const QueueMetrics& queue) {
    std::uint64_t others = 0;
    for (std::size_t index = 0; index < kOpCount; ++index) {
        if (!is_usual(static_cast<Op>(index))) others += queue.ops[index].count;
    }
    return {{"reads", queue[Op::read].count},
            {"writes", queue[Op::write].count},
            {"flushes", queue[Op::flush].count},
            {"discards", queue[Op::discard].count},
            {"write_zeroes", queue[Op::write_zeroes].count},
            {"others", others},
            {"read_bytes", queue[Op::read].bytes},
            {"write_bytes", queue[Op::write].bytes},
            {"errors", queue.errors()}};
}

// ---- For people --------------------------------------------------------------------------------

namespace {

// Three digits, and the unit whose factor the value reaches. Units ascend, each 1000 of the last.
template <std::size_t N>
std::string with_unit(double value, const std::array<const char*, N>& units) {
    std::size_t unit = 0;
    // What would be rounded up to 1000 is one of the next already.
    while (value >= 999.5 && unit + 1 < N) {
        value /= 1000;
        ++unit;
    }
    const bool whole = unit == 0 || value >= 99.95;
    return fmt::format("{:.{}f}{}", value, whole ? 0 : value >= 9.995 ? 1 : 2, units[unit]);
}

}  // namespace

std::string format_nanoseconds(std::uint64_t nanoseconds) {
    return with_unit(static_cast<double>(nanoseconds), std::array{" ns", " us", " ms", " s"});
}

std::string format_count(double count) {
    return with_unit(count, std::array{"", "k", "M", "G", "T"});
}

}  // namespace ashlar::cli
