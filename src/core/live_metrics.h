// LiveMetrics: one part of a queue, as it is being counted.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include <ashlar/metrics.h>

#include "base/fd.h"

namespace ashlar {

// A number that one thread writes, so a plain load and store is enough, and any reads. Trivial, so
// that zeroed memory is one: zero it otherwise.
class LiveNumber {
public:
    void add(std::uint64_t amount) noexcept { set(get() + amount); }
    void set(std::uint64_t value) noexcept { __atomic_store_n(&value_, value, __ATOMIC_RELAXED); }
    [[nodiscard]] std::uint64_t get() const noexcept {
        return __atomic_load_n(&value_, __ATOMIC_RELAXED);
    }

private:
    std::uint64_t value_;
};

class LiveHistogram {
public:
    void add(std::uint64_t value) noexcept {
        buckets_[Histogram::bucket_of(value)].add(1);
        sum_.add(value);
        if (value > max_.get()) max_.set(value);
    }
    void add_to(Histogram& sum) const;

private:
    LiveNumber sum_, max_;
    std::array<LiveNumber, Histogram::kBuckets> buckets_;
};

// The time of requests. Trivial, like LiveNumber. Time is taken once when a round's first request
// comes, and once for each answer: what is handed to the backend next begins when the last one was
// answered.
class LiveTimes {
public:
    struct Begin {
        std::int64_t arrived = 0;  // nanoseconds
        std::int64_t started = 0;
    };

    [[nodiscard]] Begin begin(std::uint64_t round) noexcept {
        if (round != round_) [[unlikely]] {
            if (batch_ != 0) batches_.add(batch_);
            batch_ = 0;
            round_ = round;
            round_began_ = last_ = now();
        }
        ++batch_;
        return {.arrived = round_began_, .started = last_};
    }
    RequestTimes answered(const Request& request, const Begin& begun) noexcept {
        last_ = now();
        OpTimes& op = ops_[static_cast<unsigned>(request.op)];
        op.latency.add(static_cast<std::uint64_t>(last_ - begun.arrived));
        op.waiting.add(static_cast<std::uint64_t>(begun.started - begun.arrived));
        op.service.add(static_cast<std::uint64_t>(last_ - begun.started));
        if (request.op != Op::flush) op.size.add(request.length);
        return {.waiting = std::chrono::nanoseconds(begun.started - begun.arrived),
                .service = std::chrono::nanoseconds(last_ - begun.started)};
    }
    void add_to(QueueMetrics& sum) const;

private:
    struct OpTimes {
        LiveHistogram latency, waiting, service, size;
    };
    static std::int64_t now() noexcept {
        return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }

    std::uint64_t round_;
    std::uint64_t batch_;  // requests that this round brought so far
    std::int64_t round_began_;
    std::int64_t last_;
    LiveHistogram batches_;
    std::array<OpTimes, kOpCount> ops_;
};

// Kept by the device, so that they outlive the queue.
class alignas(64) LiveMetrics {
public:
    // timed: has LiveTimes too. Without memory for these there are none.
    explicit LiveMetrics(bool timed = false);

    void begun() noexcept { begun_.add(1); }
    void answered(const Request& request, bool failed) noexcept {
        Counts& counts = counts_[static_cast<unsigned>(request.op)];
        counts.count.add(1);
        counts.bytes.add(request.length);
        if (failed) [[unlikely]]
            counts.errors.add(1);
    }
    // Null when time is not taken.
    [[nodiscard]] LiveTimes* times() const noexcept { return times_; }
    void add_to(QueueMetrics& sum) const;

private:
    struct Counts {
        LiveNumber count, bytes, errors;
    };
    LiveNumber begun_{};
    std::array<Counts, kOpCount> counts_{};
    Mapping memory_;  // of times_: only what is counted in takes memory
    LiveTimes* times_ = nullptr;
};

}  // namespace ashlar
