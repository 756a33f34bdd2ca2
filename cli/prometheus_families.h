// What devices do, as Prometheus wants it.
#pragma once

#include <prometheus/metric_family.h>
#include <cstdint>
#include <optional>
#include <vector>

#include <ashlar/metrics.h>

#include "cli/device_report.h"

namespace ashlar::cli {

struct ExportedDevice {
    DeviceReport report;
    std::optional<Metrics> metrics;  // none: no server of ours answers
    std::uint64_t recoveries = 0;
};

// Families without a sample are left out. Counters begin again with each server.
[[nodiscard]] std::vector<prometheus::MetricFamily> families_of(
    const std::vector<ExportedDevice>& devices);

}  // namespace ashlar::cli
