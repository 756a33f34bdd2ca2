#include "cli/prometheus_families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <string>

namespace ashlar::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

ExportedDevice served() {
    Metrics metrics{.began = {},
                    .from = {},
                    .taken = {},
                    .timed = true,
                    .queues = std::vector<QueueMetrics>(2),
                    .backend = {{.name = "syncs", .value = 5, .what = "times that it was synced"}}};
    OpMetrics& read = metrics.queues[1][Op::read];
    read.count = 3;
    read.bytes = 12'288;
    read.errors = 1;
    read.latency.add(1000, 2);
    read.latency.add(3'000'000);
    read.size.add(4096, 3);
    metrics.queues[1].in_flight = 2;
    metrics.queues[1].batch.add(3);
    return {.report = {.info = {.id = 4, .state = DeviceState::live},
                       .params = {.geometry = {.size = 1 << 20}, .capabilities = {}},
                       .type = "mem",
                       .backend = ""},
            .metrics = std::move(metrics),
            .recoveries = 7};
}

std::string text_of(const std::vector<ExportedDevice>& devices) {
    return prometheus::TextSerializer().Serialize(families_of(devices));
}

TEST(PrometheusFamilies, NoDevicesAreNoFamilies) { EXPECT_TRUE(families_of({}).empty()); }

TEST(PrometheusFamilies, HasWhatTheDeviceDid) {
    const std::string text = text_of({served()});
    for (const char* line : {
             R"(ashlar_device_info{device="ublkb4",type="mem",state="live"} 1)",
             R"(ashlar_device_size_bytes{device="ublkb4"} 1048576)",
             R"(ashlar_server_up{device="ublkb4"} 1)",
             R"(ashlar_recoveries_total{device="ublkb4"} 7)",
             R"(ashlar_requests_total{device="ublkb4",queue="1",op="read"} 3)",
             R"(ashlar_requests_total{device="ublkb4",queue="0",op="read"} 0)",
             R"(ashlar_request_bytes_total{device="ublkb4",queue="1",op="read"} 12288)",
             R"(ashlar_request_errors_total{device="ublkb4",queue="1",op="read"} 1)",
             R"(ashlar_requests_in_flight{device="ublkb4",queue="1"} 2)",
             R"(ashlar_request_latency_seconds_count{device="ublkb4",op="read"} 3)",
             R"(ashlar_request_latency_seconds_bucket{device="ublkb4",op="read",le="+Inf"} 3)",
             R"(ashlar_request_size_bytes_sum{device="ublkb4",op="read"} 12288)",
             R"(ashlar_round_requests_count{device="ublkb4"} 1)",
             R"(ashlar_backend_syncs_total{device="ublkb4"} 5)",
             "# HELP ashlar_backend_syncs_total Backend: times that it was synced.",
             "# TYPE ashlar_request_latency_seconds histogram",
             "# TYPE ashlar_requests_total counter",
         }) {
        EXPECT_THAT(text, HasSubstr(line));
    }
}

TEST(PrometheusFamilies, BucketsAreCumulative) {
    const auto families = families_of({served()});
    for (const auto& family : families) {
        if (family.name != "ashlar_request_latency_seconds") continue;
        const auto& buckets = family.metric.at(0).histogram.bucket;
        EXPECT_EQ(buckets.front().cumulative_count, 2U) << "below 1.024 us";
        EXPECT_DOUBLE_EQ(buckets.front().upper_bound, 1.024e-6);
        for (std::size_t at = 1; at < buckets.size(); ++at) {
            EXPECT_GE(buckets[at].cumulative_count, buckets[at - 1].cumulative_count);
            EXPECT_GT(buckets[at].upper_bound, buckets[at - 1].upper_bound);
        }
        return;
    }
    FAIL() << "no such family";
}

TEST(PrometheusFamilies, AServerThatDoesNotAnswerIsDown) {
    ExportedDevice mute = served();
    mute.metrics.reset();
    mute.report.type.clear();
    const std::string text = text_of({served(), mute});
    EXPECT_THAT(text, HasSubstr(R"(type="other")"));
    EXPECT_THAT(text_of({mute}), HasSubstr(R"(ashlar_server_up{device="ublkb4"} 0)"));
    EXPECT_THAT(text_of({mute}), Not(HasSubstr("ashlar_requests_total")));
}

TEST(PrometheusFamilies, WithoutTimesThereAreNoHistograms) {
    ExportedDevice device = served();
    device.metrics->timed = false;
    EXPECT_THAT(text_of({device}), Not(HasSubstr("latency")));
    EXPECT_THAT(text_of({device}), HasSubstr("ashlar_requests_total"));
}

}  // namespace
}  // namespace ashlar::cli
