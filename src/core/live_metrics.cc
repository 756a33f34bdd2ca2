#include "core/live_metrics.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

namespace ashlar {

void LiveHistogram::add_to(Histogram& sum) const {
    std::vector<std::uint64_t> buckets(Histogram::kBuckets);
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
        buckets[bucket] = buckets_[bucket].get();
    }
    sum.add(Histogram::from(std::move(buckets), sum_.get(), max_.get()));
}

void LiveTimes::add_to(QueueMetrics& sum) const {
    batches_.add_to(sum.batch);
    for (std::size_t op = 0; op < ops_.size(); ++op) {
        // Reading what was never written would take memory for it.
        if (sum.ops[op].count == 0) continue;
        Histogram unwaited;
        ops_[op].unwaited.add_to(unwaited);
        sum.ops[op].latency.add(unwaited);
        sum.ops[op].service.add(unwaited);
        sum.ops[op].waiting.add(0, unwaited.count());
        ops_[op].latency.add_to(sum.ops[op].latency);
        ops_[op].waiting.add_to(sum.ops[op].waiting);
        ops_[op].service.add_to(sum.ops[op].service);
        ops_[op].size.add_to(sum.ops[op].size);
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
}

void LiveMetrics::add_to(QueueMetrics& sum) const {
    std::uint64_t answered = 0;
    for (std::size_t op = 0; op < counts_.size(); ++op) {
        const Counts& counts = counts_[op];
        sum.ops[op].count += counts.count.get();
        sum.ops[op].bytes += counts.bytes.get();
        sum.ops[op].errors += counts.errors.get();
        answered += counts.count.get();
    }
    // Read after what was answered, so it is no less.
    const std::uint64_t begun = begun_.get();
    sum.in_flight += begun - std::min(begun, answered);
    if (times_ != nullptr) times_->add_to(sum);
}

}  // namespace ashlar
