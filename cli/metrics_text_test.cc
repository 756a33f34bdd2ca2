#include "cli/metrics_text.h"

#include <gtest/gtest.h>

#include <chrono>

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

Metrics example() {
    Metrics metrics{.began = std::chrono::steady_clock::time_point(5s),
                    .from = std::chrono::steady_clock::time_point(5s),
                    .taken = std::chrono::steady_clock::time_point(7s),
                    .timed = true,
                    .queues = std::vector<QueueMetrics>(2),
                    .backend = {{.name = "syncs", .value = 3, .what = "a test"}}};
    OpMetrics& read = metrics.queues[1][Op::read];
    read.count = 100;
    read.bytes = 409'600;
    read.errors = 1;
    read.latency.add(1000, 90);
    read.latency.add(50'000, 10);
    read.waiting.add(0, 100);
    read.service.add(900, 100);
    read.size.add(4096, 100);
    metrics.queues[1][Op::unknown].count = 2;
    metrics.queues[1].in_flight = 4;
    metrics.queues[1].batch.add(2, 50);
    return metrics;
}

TEST(MetricsText, ComesBackAsItWas) {
    const Metrics sent = example();
    const auto got = metrics_from_json(nlohmann::json::parse(metrics_to_json(sent).dump()));
    ASSERT_TRUE(got);
    EXPECT_EQ(got->began, sent.began);
    EXPECT_EQ(got->from, sent.from);
    EXPECT_EQ(got->taken, sent.taken);
    EXPECT_TRUE(got->timed);
    ASSERT_EQ(got->queues.size(), 2U);
    const OpMetrics& read = got->queues[1][Op::read];
    EXPECT_EQ(read.count, 100U);
    EXPECT_EQ(read.bytes, 409'600U);
    EXPECT_EQ(read.errors, 1U);
    EXPECT_EQ(read.latency.buckets(), sent.queues[1][Op::read].latency.buckets());
    EXPECT_EQ(read.latency.sum(), sent.queues[1][Op::read].latency.sum());
    EXPECT_EQ(read.latency.max(), 50'000U);
    EXPECT_EQ(read.size.count(), 100U);
    EXPECT_EQ(got->queues[1].in_flight, 4U);
    EXPECT_EQ(got->queues[1].batch.count(), 50U);
    ASSERT_EQ(got->backend.size(), 1U);
    EXPECT_EQ(got->backend[0].name, "syncs");
    EXPECT_EQ(got->backend[0].value, 3U);
}

TEST(MetricsText, WhatMakesNoSenseIsRefused) {
    const nlohmann::json good = metrics_to_json(example());
    EXPECT_FALSE(metrics_from_json({}));
    EXPECT_FALSE(metrics_from_json(nullptr));
    for (const char* key : {"began", "from", "taken", "timed", "queues", "backend"}) {
        nlohmann::json bad = good;
        bad.erase(key);
        EXPECT_FALSE(metrics_from_json(bad)) << key;
        bad[key] = "text";
        EXPECT_FALSE(metrics_from_json(bad)) << key;
    }
    nlohmann::json bad = good;
    bad["queues"][1]["ops"]["read"]["latency"]["buckets"][0][0] = Histogram::kBuckets;
    EXPECT_FALSE(metrics_from_json(bad));
    bad["queues"][1]["ops"]["read"]["latency"]["buckets"][0] = -1;
    EXPECT_FALSE(metrics_from_json(bad));
}

TEST(MetricsText, TheSummaryHasRatesAndPercentiles) {
    const auto summary = summary_json(example());
    EXPECT_EQ(summary["seconds"], 2.0);
    EXPECT_EQ(summary["read"]["count"], 100);
    EXPECT_EQ(summary["read"]["per_second"], 50.0);
    EXPECT_EQ(summary["read"]["bytes_per_second"], 204'800.0);
    EXPECT_NEAR(summary["read"]["latency_ns"]["p50"].get<double>(), 1000, 16);
    EXPECT_NEAR(summary["read"]["latency_ns"]["p99"].get<double>(), 50'000, 800);
    EXPECT_EQ(summary["read"]["latency_ns"]["max"], 50'000);
    EXPECT_EQ(summary["write"]["count"], 0) << "a script may rely on it";
    EXPECT_EQ(summary["other"]["count"], 2);
    EXPECT_FALSE(summary.contains("zone_append"));
    EXPECT_FALSE(summary["flush"].contains("size_bytes"));
    EXPECT_EQ(summary["in_flight"], 4);
    EXPECT_EQ(summary["requests_per_round"]["p50"], 2);
    EXPECT_EQ(summary["backend"]["syncs"], 3);
    ASSERT_EQ(summary["queues"].size(), 2U);
    EXPECT_EQ(summary["queues"][0]["read"]["count"], 0);
}

TEST(MetricsText, WithoutTimesThereAreNoPercentiles) {
    Metrics metrics = example();
    metrics.timed = false;
    const auto summary = summary_json(metrics);
    EXPECT_FALSE(summary["read"].contains("latency_ns"));
    EXPECT_FALSE(summary.contains("requests_per_round"));
    EXPECT_EQ(summary["read"]["count"], 100);
}

TEST(MetricsText, CountsOfAQueue) {
    const auto counts = counts_json(example().queues[1]);
    EXPECT_EQ(counts["reads"], 100);
    EXPECT_EQ(counts["read_bytes"], 409'600);
    EXPECT_EQ(counts["others"], 2);
    EXPECT_EQ(counts["errors"], 1);
}

TEST(MetricsText, NumbersForPeopleHaveThreeDigits) {
    EXPECT_EQ(format_nanoseconds(0), "0 ns");
    EXPECT_EQ(format_nanoseconds(999), "999 ns");
    EXPECT_EQ(format_nanoseconds(1000), "1.00 us");
    EXPECT_EQ(format_nanoseconds(12'345), "12.3 us");
    EXPECT_EQ(format_nanoseconds(999'499), "999 us");
    EXPECT_EQ(format_nanoseconds(999'500), "1.00 ms");
    EXPECT_EQ(format_nanoseconds(4'560'000'000), "4.56 s");
    EXPECT_EQ(format_nanoseconds(12'000'000'000'000), "12000 s");
    EXPECT_EQ(format_count(0), "0");
    EXPECT_EQ(format_count(999.4), "999");
    EXPECT_EQ(format_count(9995), "10.0k");
    EXPECT_EQ(format_count(123'456), "123k");
    EXPECT_EQ(format_count(4'560'000), "4.56M");
}

}  // namespace
}  // namespace ashlar::cli
