#include "core/live_metrics.h"

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

namespace ashlar {

namespace {

// The largest value is known as well as its bucket tells.
Histogram with_sum(std::vector<std::uint64_t> buckets, std::uint64_t sum) {
    std::size_t last = buckets.size();
    while (last > 0 && buckets[last - 1] == 0) --last;
    const std::uint64_t max = last == 0 ? 0 : Histogram::lower_bound(last - 1);
    return Histogram::from(std::move(buckets), sum, max);
}

}  // namespace

void LiveHistogram::add_to(std::vector<std::uint64_t>& buckets) const {
    buckets.resize(Histogram::kBuckets);
    for (std::size_t at = 0; at < buckets.size(); ++at) buckets[at] += buckets_[at].get();
}

std::vector<std::uint64_t> LiveHistogram::buckets() const {
    std::vector<std::uint64_t> buckets;
    add_to(buckets);
    return buckets;
}

void LiveTimes::OpTimes::add_to(OpMetrics& to, std::uint64_t bytes) const {
    // What is counted meanwhile may be in one of these and not yet in another.
    const std::uint64_t waited = waiting_sum.get();
    const std::uint64_t took = std::max(latency_sum.get(), waited);
    const std::vector<std::uint64_t> at_once = unwaited.buckets();
    auto latencies = at_once;
    latency.add_to(latencies);
    to.latency.add(Histogram::from(std::move(latencies), took, latency_max.get()));
    auto services = at_once;
    service.add_to(services);
    to.service.add(with_sum(std::move(services), took - waited));
    to.waiting.add(0, std::accumulate(at_once.begin(), at_once.end(), std::uint64_t{0}));
    to.waiting.add(with_sum(waiting.buckets(), waited));
    to.size.add(with_sum(size.buckets(), bytes));
}

void LiveTimes::add_to(QueueMetrics& sum, std::span<const std::uint64_t> bytes) const {
    sum.batch.add(with_sum(batches_.buckets(), batch_sum_.get()));
    for (std::size_t op = 0; op < ops_.size(); ++op) {
        // Reading what was never written would take memory for it.
        if (sum.ops[op].count != 0) ops_[op].add_to(sum.ops[op], bytes[op]);
    }
}

LiveMetrics::LiveMetrics(bool timed) {
    if (!timed) return;
    void* memory = mmap(nullptr, sizeof(LiveTimes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return;
    static_cast<void>(madvise(memory, sizeof(LiveTimes), MADV_NOHUGEPAGE));
    memory_ = Mapping(memory, sizeof(LiveTimes));
    // Zeroed already; to write the zeroes would take all of the memory at once.
    static_assert(std::is_trivial_v<LiveTimes>);
    times_ = static_cast<LiveTimes*>(memory);
    times_->set_clock(TickClock::calibrated());
}

void LiveMetrics::add_to(QueueMetrics& sum) const {
    std::uint64_t answered = 0;
    std::array<std::uint64_t, kOpCount> bytes{};
    for (std::size_t op = 0; op < counts_.size(); ++op) {
        const Counts& counts = counts_[op];
        sum.ops[op].count += counts.count.get();
        bytes[op] = counts.bytes.get();
        sum.ops[op].bytes += bytes[op];
        sum.ops[op].errors += counts.errors.get();
        answered += counts.count.get();
    }
    // Read after what was answered, so it is no less.
    const std::uint64_t begun = begun_.get();
    sum.in_flight += begun - std::min(begun, answered);
    if (times_ != nullptr) times_->add_to(sum, bytes);
}

}  // namespace ashlar
