// A device's metrics as JSON: what a server sends to those who ask, and what scripts read.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include <ashlar/metrics.h>

namespace ashlar::cli {

// All of it, histograms with their buckets.
[[nodiscard]] nlohmann::json metrics_to_json(const Metrics& metrics);
// Empty when it makes no sense.
[[nodiscard]] std::optional<Metrics> metrics_from_json(const nlohmann::json& json);

// The kinds that are shown even if nothing of them came.
[[nodiscard]] bool is_usual(Op op) noexcept;
// "read", "write_zeroes", "other": what Op::unknown stands for.
[[nodiscard]] std::string_view shown_name(Op op) noexcept;

// For scripts: counts, rates, and percentiles in place of histograms.
[[nodiscard]] nlohmann::ordered_json summary_json(const Metrics& metrics);
// {"reads": ..., "read_bytes": ..., ...}, as `show --json` has it.
[[nodiscard]] nlohmann::ordered_json counts_json(const QueueMetrics& queue);

// "830 ns", "12.3 us", "4.56 ms", "1.23 s": three digits.
[[nodiscard]] std::string format_nanoseconds(std::uint64_t nanoseconds);
// "999", "12.3k", "4.56M": three digits.
[[nodiscard]] std::string format_count(double count);

}  // namespace ashlar::cli
