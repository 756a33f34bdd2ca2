#include "core/live_metrics.h"

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

namespace ashlar {

namespace {

// What is counted meanwhile may be in the buckets and not yet in the sum. most: no value is larger;
// the largest is then known as well as its bucket tells.
Histogram within(std::vector<std::uint64_t> buckets, std::uint64_t sum, std::uint64_t most) {
    std::size_t end = buckets.size();
    while (end > 0 && buckets[end - 1] == 0) --end;
    const std::uint64_t max = std::min(Histogram::lower_bound(end) - 1, most);
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
    const std::uint64_t longest = latency_max.get();
    const std::uint64_t waited = waiting_sum.get();
    const std::uint64_t served = service_sum.get();
    const std::vector<std::uint64_t> at_once = unwaited.buckets();
    auto latencies = at_once;
    latency.add_to(latencies);
    to.latency.add(Histogram::from(std::move(latencies), waited + served, longest));
    auto services = at_once;
    service.add_to(services);
    to.service.add(within(std::move(services), served, longest));
    to.waiting.add(0, std::accumulate(at_once.begin(), at_once.end(), std::uint64_t{0}));
    to.waiting.add(within(waiting.buckets(), waited, longest));
    to.size.add(Histogram::from(size.buckets(), bytes, size_max.get()));
}

void LiveTimes::add_to(QueueMetrics& sum, std::span<const std::uint64_t> bytes) const {
    sum.batch.add(Histogram::from(batches_.buckets(), batch_sum_.get(), batch_max_.get()));
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
