// LiveMetrics: one part of a queue, as it is being counted.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include <ashlar/metrics.h>

#include "base/fd.h"
#include "base/tick_clock.h"

namespace ashlar {

// A number that one thread writes, so a plain load and store is enough, and any reads. Trivial, so
// that zeroed memory is one: zero it otherwise.
class LiveNumber {
public:
    void add(std::uint64_t amount) noexcept {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
        // One instruction, for which the compiler takes three when it may not tear the value.
        asm("addq %1, %0" : "+m"(value_) : "er"(amount) : "cc");
#else
        set(get() + amount);
#endif
    }
    void set(std::uint64_t value) noexcept { __atomic_store_n(&value_, value, __ATOMIC_RELAXED); }
    [[nodiscard]] std::uint64_t get() const noexcept {
        return __atomic_load_n(&value_, __ATOMIC_RELAXED);
    }

private:
    std::uint64_t value_;
};

// How often values occurred; their sum and the largest are kept beside it.
class LiveHistogram {
public:
    void add(std::uint64_t value) noexcept { buckets_[Histogram::bucket_of(value)].add(1); }
    void add_to(std::vector<std::uint64_t>& buckets) const;
    [[nodiscard]] std::vector<std::uint64_t> buckets() const;

private:
    std::array<LiveNumber, Histogram::kBuckets> buckets_;
};

// The time of requests. Trivial, like LiveNumber. Time is taken once when a round's first request
// comes, and once for each answer: what is handed to the backend next begins when the last one was
// answered.
class LiveTimes {
public:
    struct Begin {
        std::uint64_t arrived = 0;  // ticks
        std::uint64_t started = 0;
    };

    void set_clock(TickClock clock) noexcept { clock_ = clock; }
    [[nodiscard]] Begin begin(std::uint64_t round) noexcept {
        if (round != round_) [[unlikely]] {
            if (batch_ != 0) {
                batches_.add(batch_);
                batch_sum_.add(batch_);
                if (batch_ > batch_max_.get()) batch_max_.set(batch_);
            }
            batch_ = 0;
            round_ = round;
            look();
            round_began_ = last_;
        }
        ++batch_;
        return {.arrived = round_began_, .started = last_};
    }
    void answered(const Request& request, const Begin& begun) noexcept {
        look();
        const std::uint64_t waiting = between(begun.arrived, begun.started);
        const std::uint64_t service = between(begun.started, last_);
        const std::uint64_t latency = waiting + service;
        OpTimes& op = ops_[static_cast<unsigned>(request.op)];
        op.service_sum.add(service);
        if (latency > op.latency_max.get()) [[unlikely]]
            op.latency_max.set(latency);
        if (waiting == 0) {
            op.unwaited.add(latency);
        } else {
            op.waiting_sum.add(waiting);
            op.latency.add(latency);
            op.waiting.add(waiting);
            op.service.add(service);
        }
        if (request.op == Op::flush) return;
        op.size.add(request.length);
        if (request.length > op.size_max.get()) [[unlikely]]
            op.size_max.set(request.length);
    }
    // Of the request that was answered last.
    [[nodiscard]] RequestTimes took(const Begin& begun) const noexcept {
        return {.waiting = std::chrono::nanoseconds(between(begun.arrived, begun.started)),
                .service = std::chrono::nanoseconds(between(begun.started, last_))};
    }
    // bytes: of each op's requests; flush has none.
    void add_to(QueueMetrics& sum, std::span<const std::uint64_t> bytes) const;

private:
    struct OpTimes {
        LiveNumber waiting_sum, service_sum, latency_max, size_max;
        LiveHistogram unwaited;  // latency of the first of each round: all of it is service
        LiveHistogram latency, waiting, service;  // of the others
        LiveHistogram size;

        void add_to(OpMetrics& to, std::uint64_t bytes) const;
    };
    void look() noexcept { last_ = clock_.now(); }
    // Nanoseconds. 0 when the clock went backwards: the machine slept meanwhile.
    [[nodiscard]] std::uint64_t between(std::uint64_t begin, std::uint64_t end) const noexcept {
        return clock_.nanoseconds(end > begin ? end - begin : 0);
    }

    TickClock clock_;
    std::uint64_t round_;
    std::uint64_t batch_;  // requests that this round brought so far
    std::uint64_t round_began_;
    std::uint64_t last_;
    LiveHistogram batches_;
    LiveNumber batch_sum_, batch_max_;
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
