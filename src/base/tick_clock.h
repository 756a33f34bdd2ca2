// TickClock: time by one instruction, where the CPU has a counter that the kernel itself keeps time
// with; elsewhere the monotonic clock. For durations within one thread.
#pragma once

#include <cstdint>
#include <ctime>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace ashlar {

// Trivial, so that it can lie in zeroed memory until it is assigned.
class TickClock {
public:
    // To be called some milliseconds before calibrated(), which then need not wait.
    static void begin_calibration() noexcept;
    // The counter, if the kernel trusts it, else the monotonic clock; asked once. Thread: any.
    [[nodiscard]] static TickClock calibrated() noexcept;
    // The counter where there is one, trusted or not. Waits until its rate is known to one in ten
    // thousand: for 2 ms at most after begin_calibration() or the first call.
    [[nodiscard]] static TickClock counter() noexcept;
    [[nodiscard]] static TickClock monotonic() noexcept { return {false, kOne}; }

    [[nodiscard]] std::uint64_t now() const noexcept {
#if defined(__x86_64__)
        if (has_counter_) [[likely]]
            return __rdtsc();
#endif
        return monotonic_now();
    }
    [[nodiscard]] std::uint64_t nanoseconds(std::uint64_t ticks) const noexcept {
        return static_cast<std::uint64_t>((Wide{ticks} * nanoseconds_) >> 32);
    }
    [[nodiscard]] bool has_counter() const noexcept { return has_counter_; }

    TickClock() noexcept = default;

private:
    __extension__ using Wide = unsigned __int128;
#if defined(__x86_64__)
    static constexpr bool kHasCounter = true;
#else
    static constexpr bool kHasCounter = false;
#endif
    static constexpr std::uint64_t kOne = std::uint64_t{1} << 32;
    TickClock(bool has_counter, std::uint64_t nanoseconds) noexcept
        : has_counter_(has_counter), nanoseconds_(nanoseconds) {}

    [[nodiscard]] static std::uint64_t monotonic_now() noexcept {
        timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
               static_cast<std::uint64_t>(time.tv_nsec);
    }
    struct Reading;

    bool has_counter_;
    std::uint64_t nanoseconds_;  // of one tick, times 2^32
};

}  // namespace ashlar
