#include <ashlar/metrics.h>

#include <algorithm>
#include <cmath>

#include "base/assert.h"

namespace ashlar {

// ---- Histogram ---------------------------------------------------------------------------------

void Histogram::add(std::uint64_t value, std::uint64_t times) {
    if (times == 0) return;
    if (buckets_.empty()) buckets_.resize(kBuckets);
    buckets_[bucket_of(value)] += times;
    count_ += times;
    sum_ += value * times;
    max_ = std::max(max_, value);
}

void Histogram::add(const Histogram& other) {
    if (other.count_ == 0) return;
    if (buckets_.empty()) buckets_.resize(kBuckets);
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
        buckets_[bucket] += other.buckets_[bucket];
    }
    count_ += other.count_;
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
}

Histogram Histogram::from(std::vector<std::uint64_t> buckets, std::uint64_t sum,
                          std::uint64_t max) {
    ASHLAR_ASSERT(buckets.empty() || buckets.size() == kBuckets);
    Histogram made;
    made.buckets_ = std::move(buckets);
    for (const std::uint64_t count : made.buckets_) made.count_ += count;
    if (made.count_ == 0) return {};
    made.sum_ = sum;
    made.max_ = max;
    return made;
}

Histogram Histogram::since(const Histogram& earlier) const {
    if (earlier.count_ == 0) return *this;
    if (count_ <= earlier.count_) return {};
    Histogram rest;
    rest.buckets_.resize(kBuckets);
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
        // Not taken at one instant: a bucket may seem to shrink where the whole has grown.
        const std::uint64_t more =
            buckets_[bucket] - std::min(buckets_[bucket], earlier.buckets_[bucket]);
        if (more == 0) continue;
        rest.buckets_[bucket] = more;
        rest.count_ += more;
        rest.max_ = std::min(max_, lower_bound(bucket + 1) - 1);
    }
    rest.sum_ = sum_ - std::min(sum_, earlier.sum_);
    return rest;
}

double Histogram::mean() const noexcept {
    return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
}

std::uint64_t Histogram::quantile(double q) const noexcept {
    if (count_ == 0) return 0;
    const double share = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
    const auto wanted = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(share)));
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
        seen += buckets_[bucket];
        if (seen < wanted) continue;
        const std::uint64_t low = lower_bound(bucket);
        return std::min(max_, low + (lower_bound(bucket + 1) - low) / 2);
    }
    return max_;
}

std::uint64_t Histogram::count_below(std::uint64_t bound) const noexcept {
    if (buckets_.empty()) return 0;
    const std::size_t end = bucket_of(bound);
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < end; ++bucket) seen += buckets_[bucket];
    return seen;
}

// ---- Sums and differences ----------------------------------------------------------------------

void OpMetrics::add(const OpMetrics& other) {
    count += other.count;
    bytes += other.bytes;
    errors += other.errors;
    latency.add(other.latency);
    waiting.add(other.waiting);
    service.add(other.service);
    size.add(other.size);
}

OpMetrics OpMetrics::since(const OpMetrics& earlier) const {
    return {.count = count - earlier.count,
            .bytes = bytes - earlier.bytes,
            .errors = errors - earlier.errors,
            .latency = latency.since(earlier.latency),
            .waiting = waiting.since(earlier.waiting),
            .service = service.since(earlier.service),
            .size = size.since(earlier.size)};
}

std::uint64_t QueueMetrics::errors() const noexcept {
    std::uint64_t sum = 0;
    for (const OpMetrics& op : ops) sum += op.errors;
    return sum;
}

void QueueMetrics::add(const QueueMetrics& other) {
    for (std::size_t op = 0; op < ops.size(); ++op) ops[op].add(other.ops[op]);
    in_flight += other.in_flight;
    batch.add(other.batch);
}

QueueMetrics QueueMetrics::since(const QueueMetrics& earlier) const {
    QueueMetrics rest{.ops = {}, .in_flight = in_flight, .batch = batch.since(earlier.batch)};
    for (std::size_t op = 0; op < ops.size(); ++op) rest.ops[op] = ops[op].since(earlier.ops[op]);
    return rest;
}

QueueMetrics Metrics::total() const {
    QueueMetrics sum;
    for (const QueueMetrics& queue : queues) sum.add(queue);
    return sum;
}

Metrics Metrics::since(const Metrics& earlier) const {
    if (began != earlier.began) return *this;
    ASHLAR_ASSERT(queues.size() == earlier.queues.size());
    Metrics rest{.began = began,
                 .from = earlier.taken,
                 .taken = taken,
                 .timed = timed,
                 .queues = {},
                 .backend = backend};
    for (std::size_t queue = 0; queue < queues.size(); ++queue) {
        rest.queues.push_back(queues[queue].since(earlier.queues[queue]));
    }
    for (BackendCounter& counter : rest.backend) {
        for (const BackendCounter& before : earlier.backend) {
            if (before.name != counter.name) continue;
            counter.value -= std::min(counter.value, before.value);
        }
    }
    return rest;
}

}  // namespace ashlar
