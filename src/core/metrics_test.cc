#include <ashlar/metrics.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace ashlar {
namespace {

TEST(Histogram, BucketsAreContiguousAndAscending) {
    EXPECT_EQ(Histogram::lower_bound(0), 0U);
    for (std::size_t bucket = 0; bucket + 1 < Histogram::kBuckets; ++bucket) {
        const std::uint64_t low = Histogram::lower_bound(bucket);
        const std::uint64_t next = Histogram::lower_bound(bucket + 1);
        ASSERT_LT(low, next);
        ASSERT_EQ(Histogram::bucket_of(low), bucket);
        ASSERT_EQ(Histogram::bucket_of(next - 1), bucket);
        ASSERT_LE((next - low - 1) * 32, low) << "a bucket is narrow";
    }
    EXPECT_EQ(Histogram::bucket_of(~std::uint64_t{0}), Histogram::kBuckets - 1);
    EXPECT_EQ(Histogram::lower_bound(Histogram::kBuckets), 0U);
}

TEST(Histogram, HoldsTheLargestNumbers) {
    Histogram histogram;
    histogram.add(~std::uint64_t{0});
    EXPECT_EQ(histogram.max(), ~std::uint64_t{0});
    EXPECT_GE(histogram.quantile(0.5), ~std::uint64_t{0} - (std::uint64_t{1} << 59));
    Histogram more = histogram;
    more.add(~std::uint64_t{0});
    EXPECT_EQ(more.since(histogram).max(), ~std::uint64_t{0});
    EXPECT_EQ(histogram.count_below(~std::uint64_t{0}), 0U);
}

TEST(Histogram, EmptyIsZeroes) {
    const Histogram histogram;
    EXPECT_EQ(histogram.count(), 0U);
    EXPECT_EQ(histogram.max(), 0U);
    EXPECT_EQ(histogram.quantile(0.5), 0U);
    EXPECT_EQ(histogram.mean(), 0);
    EXPECT_EQ(histogram.count_below(100), 0U);
    EXPECT_TRUE(histogram.buckets().empty());
    EXPECT_EQ(histogram.since(histogram).count(), 0U);
    EXPECT_EQ(Histogram::from({}, 0, 0).count(), 0U);
}

TEST(Histogram, QuantilesAreThoseOfTheSortedValues) {
    std::mt19937_64 random(1);
    std::lognormal_distribution<double> distribution(10, 2);
    Histogram histogram;
    std::vector<std::uint64_t> values;
    std::uint64_t sum = 0;
    for (int index = 0; index < 20'000; ++index) {
        values.push_back(static_cast<std::uint64_t>(distribution(random)));
        histogram.add(values.back());
        sum += values.back();
    }
    std::ranges::sort(values);
    EXPECT_EQ(histogram.count(), values.size());
    EXPECT_EQ(histogram.sum(), sum);
    EXPECT_EQ(histogram.max(), values.back());
    for (const double q : {0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
        const auto rank = static_cast<std::size_t>(std::ceil(q * 20'000.0));
        const auto exact = static_cast<double>(values[std::max<std::size_t>(rank, 1) - 1]);
        EXPECT_NEAR(static_cast<double>(histogram.quantile(q)), exact, exact / 64 + 1) << q;
    }
    for (const std::uint64_t bound : {1ULL << 8, 1ULL << 14, 1ULL << 20}) {
        const auto below = std::ranges::lower_bound(values, bound) - values.begin();
        EXPECT_EQ(histogram.count_below(bound), static_cast<std::uint64_t>(below)) << bound;
    }
}

TEST(Histogram, AQuantileIsNeverAboveTheLargest) {
    Histogram histogram;
    histogram.add(1'000'000);
    EXPECT_EQ(histogram.quantile(1), histogram.quantile(0.5));
    EXPECT_LE(histogram.quantile(1), 1'000'000U);
}

TEST(Histogram, SumsAndDifferencesAreThoseOfTheValues) {
    Histogram early;
    early.add(10, 3);
    early.add(5000);
    Histogram late = early;
    late.add(10);
    late.add(70'000, 2);
    const Histogram rest = late.since(early);
    EXPECT_EQ(rest.count(), 3U);
    EXPECT_EQ(rest.sum(), 140'010U);
    EXPECT_EQ(rest.quantile(0.01), 10U);
    EXPECT_EQ(rest.max(), 70'000U);
    Histogram again = early;
    again.add(rest);
    EXPECT_EQ(again.buckets(), late.buckets());
    EXPECT_EQ(again.sum(), late.sum());
    EXPECT_EQ(again.max(), late.max());
    EXPECT_EQ(late.since(Histogram{}).buckets(), late.buckets());
    EXPECT_EQ(late.since(late).count(), 0U);
}

TEST(Histogram, TheLargestOfADifferenceIsWithinItsBucket) {
    Histogram early;
    early.add(1'000'000);
    Histogram late = early;
    late.add(100'000);
    const std::uint64_t max = late.since(early).max();
    EXPECT_GE(max, 100'000U);
    EXPECT_LT(max, 104'000U);
}

Metrics one_queue(std::uint64_t reads, std::uint64_t reconnects) {
    Metrics metrics{.began = {},
                    .from = {},
                    .taken = {},
                    .timed = true,
                    .queues = std::vector<QueueMetrics>(1),
                    .backend = {}};
    OpMetrics& read = metrics.queues[0][Op::read];
    read.count = reads;
    read.bytes = reads * 4096;
    read.errors = reads / 10;
    read.latency.add(100, reads);
    metrics.queues[0].in_flight = 5;
    metrics.backend.push_back({.name = "reconnects", .value = reconnects, .what = ""});
    return metrics;
}

TEST(Metrics, WhatCameSinceThen) {
    Metrics earlier = one_queue(20, 1);
    earlier.taken += std::chrono::seconds(5);
    const Metrics rest = one_queue(50, 3).since(earlier);
    EXPECT_EQ(rest.from, earlier.taken);
    EXPECT_EQ(rest.queues[0][Op::read].count, 30U);
    EXPECT_EQ(rest.queues[0][Op::read].bytes, 30U * 4096);
    EXPECT_EQ(rest.queues[0][Op::read].errors, 3U);
    EXPECT_EQ(rest.queues[0][Op::read].latency.count(), 30U);
    EXPECT_EQ(rest.queues[0].in_flight, 5U) << "that is a level";
    EXPECT_EQ(rest.backend[0].value, 2U);
    EXPECT_TRUE(rest.timed);
}

TEST(Metrics, AfterARestartAllOfItCame) {
    Metrics again = one_queue(30, 0);
    again.began += std::chrono::seconds(1);
    EXPECT_EQ(again.since(one_queue(20, 1)).queues[0][Op::read].count, 30U);
}

TEST(Metrics, TheTotalIsTheSumOfItsQueues) {
    Metrics metrics = one_queue(20, 0);
    metrics.queues.push_back(one_queue(10, 0).queues[0]);
    const QueueMetrics total = metrics.total();
    EXPECT_EQ(total[Op::read].count, 30U);
    EXPECT_EQ(total[Op::read].latency.count(), 30U);
    EXPECT_EQ(total.errors(), 3U);
    EXPECT_EQ(total.in_flight, 10U);
}

}  // namespace
}  // namespace ashlar
