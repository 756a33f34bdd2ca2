// LiveMetrics: one part of a queue, as it is being counted.
#pragma once

#include <time.h>
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
        const std::int64_t waiting = begun.started - begun.arrived;
        const std::int64_t service = last_ - begun.started;
        OpTimes& op = ops_[static_cast<unsigned>(request.op)];
        if (waiting == 0) {
            op.unwaited.add(static_cast<std::uint64_t>(service));
        } else {
            op.latency.add(static_cast<std::uint64_t>(waiting + service));
            op.waiting.add(static_cast<std::uint64_t>(waiting));
            op.service.add(static_cast<std::uint64_t>(service));
        }
        if (request.op != Op::flush) op.size.add(request.length);
        return {.waiting = std::chrono::nanoseconds(waiting),
                .service = std::chrono::nanoseconds(service)};
    }
    void add_to(QueueMetrics& sum) const;

private:
    struct OpTimes {
        LiveHistogram unwaited;  // latency of the first of each round: all of it is service
        LiveHistogram latency, waiting, service;  // of the others
        LiveHistogram size;
    };
    // As steady_clock, by a shorter way.
    static std::int64_t now() noexcept {
        timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return time.tv_sec * 1'000'000'000 + time.tv_nsec;
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
