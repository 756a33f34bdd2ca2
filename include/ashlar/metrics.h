// Metrics: what a device's queues have done, and how long it took. Observer: told of each request.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar {

// How often values occurred, in buckets: each value up to 63 has its own, above that a power of two
// has 32, so that a bucket is at most 1/32 of its values wide.
class Histogram {
public:
    static constexpr unsigned kPrecisionBits = 5;
    static constexpr std::size_t kBuckets = (64 - kPrecisionBits + 1) << kPrecisionBits;

    [[nodiscard]] static constexpr std::size_t bucket_of(std::uint64_t value) noexcept {
        constexpr std::uint64_t linear = (2U << kPrecisionBits) - 1;
        const auto bits =
            static_cast<unsigned>(__builtin_clzll(1) - __builtin_clzll(value | linear));
        const unsigned shift = bits - kPrecisionBits;
        return (std::size_t{shift} << kPrecisionBits) + (value >> shift);
    }
    // The smallest value of a bucket; of kBuckets 0, which is what follows the largest.
    [[nodiscard]] static constexpr std::uint64_t lower_bound(std::size_t bucket) noexcept {
        if (bucket < 2U << kPrecisionBits) return bucket;
        const std::size_t shift = (bucket >> kPrecisionBits) - 1;
        return static_cast<std::uint64_t>(bucket - (shift << kPrecisionBits)) << shift;
    }

    void add(std::uint64_t value, std::uint64_t times = 1);
    void add(const Histogram& other);
    // As it was counted elsewhere. buckets: kBuckets or none.
    static Histogram from(std::vector<std::uint64_t> buckets, std::uint64_t sum, std::uint64_t max);
    // What came after `earlier`, which is this histogram at an earlier time. The largest value is
    // then known as well as its bucket tells.
    [[nodiscard]] Histogram since(const Histogram& earlier) const;

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t sum() const noexcept { return sum_; }
    [[nodiscard]] std::uint64_t max() const noexcept { return max_; }  // 0 when it is empty
    [[nodiscard]] double mean() const noexcept;                        // 0 when it is empty
    // A value that is in the middle of those that a share of q (0 to 1) of all do not exceed; 0
    // when it is empty. At most 1/64 off, and never above max().
    [[nodiscard]] std::uint64_t quantile(double q) const noexcept;
    // How many are smaller than `bound`; exact for powers of two.
    [[nodiscard]] std::uint64_t count_below(std::uint64_t bound) const noexcept;
    [[nodiscard]] const std::vector<std::uint64_t>& buckets() const noexcept { return buckets_; }

private:
    std::vector<std::uint64_t> buckets_;  // none before the first value
    std::uint64_t count_ = 0;
    std::uint64_t sum_ = 0;
    std::uint64_t max_ = 0;
};

// Requests of one kind. The histograms are empty where the device does not measure.
struct OpMetrics {
    std::uint64_t count = 0;   // answered
    std::uint64_t bytes = 0;   // that they asked for
    std::uint64_t errors = 0;  // answered with an errno
    // Nanoseconds from the round in which the kernel handed a request over to its answer; that is
    // the sum of the next two. What the request waited in the kernel before is not seen here.
    Histogram latency;
    // Of the next two the largest value is known as well as its bucket tells.
    Histogram waiting;  // for others of its round to be handed to the backend
    Histogram service;  // in the backend
    Histogram size;     // bytes; none for flush

    void add(const OpMetrics& other);
    [[nodiscard]] OpMetrics since(const OpMetrics& earlier) const;
};

// Of one queue since the device began to serve.
struct QueueMetrics {
    std::array<OpMetrics, kOpCount> ops;
    std::uint64_t in_flight = 0;  // requests that have no answer yet
    Histogram batch;              // requests that a round brought; rounds without are not counted

    [[nodiscard]] OpMetrics& operator[](Op op) noexcept { return ops[static_cast<unsigned>(op)]; }
    [[nodiscard]] const OpMetrics& operator[](Op op) const noexcept {
        return ops[static_cast<unsigned>(op)];
    }
    [[nodiscard]] std::uint64_t errors() const noexcept;
    void add(const QueueMetrics& other);
    // in_flight is the later one.
    [[nodiscard]] QueueMetrics since(const QueueMetrics& earlier) const;
};

// A number that a backend keeps, such as how often a connection was lost. It only grows.
struct BackendCounter {
    std::string name;  // "reconnects"
    std::uint64_t value = 0;
    std::string what;  // one line
};

// A copy: each number is exact, all of them are not taken at one instant.
struct Metrics {
    std::chrono::steady_clock::time_point began;  // when the device began to serve
    std::chrono::steady_clock::time_point from;   // what is counted began here
    std::chrono::steady_clock::time_point taken;
    bool timed = false;                // DeviceOptions::measure
    std::vector<QueueMetrics> queues;  // by queue
    std::vector<BackendCounter> backend;

    [[nodiscard]] QueueMetrics total() const;
    // earlier: of the same device; where it has begun to serve again since, all counts.
    [[nodiscard]] Metrics since(const Metrics& earlier) const;
};

// How long one request took.
struct RequestTimes {
    std::chrono::nanoseconds waiting{};  // see OpMetrics
    std::chrono::nanoseconds service{};
};

// Told of requests as they are answered. Owner: the device it is given to (shared). Thread: that of
// the request's queue, several at once. Calls are part of the request's way: they may not block,
// and what they take is taken from the device.
class Observer {
public:
    Observer() = default;
    Observer(const Observer&) = delete;
    Observer& operator=(const Observer&) = delete;
    virtual ~Observer() = default;

    // request.buffer may be gone already.
    virtual void answered(DeviceId device, const Request& request, IoResult result,
                          const RequestTimes& times) noexcept = 0;
};

}  // namespace ashlar
