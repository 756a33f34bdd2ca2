#include "base/tick_clock.h"

#include <fstream>
#include <string>

namespace ashlar {

namespace {

constexpr std::uint64_t kBaseline = 2'000'000;  // nanoseconds

// Then all CPUs' counters run alike, and none stops: the kernel has checked, and watches.
bool is_trusted() {
    static const bool trusted = [] {
        std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        std::string name;
        return file >> name && name == "tsc";
    }();
    return trusted;
}

}  // namespace

// Both clocks at one moment.
struct TickClock::Reading {
    std::uint64_t ticks = 0;
    std::uint64_t nanoseconds = 0;

    // The tightest of some, for the thread may have to wait between the two.
    static Reading take() noexcept {
        const TickClock counter{true, kOne};
        Reading best;
        std::uint64_t narrowest = UINT64_MAX;
        for (int i = 0; i < 5; ++i) {
            const std::uint64_t before = counter.now();
            const std::uint64_t nanoseconds = monotonic_now();
            const std::uint64_t width = counter.now() - before;
            if (width >= narrowest) continue;
            narrowest = width;
            best = {before + width / 2, nanoseconds};
        }
        return best;
    }
    static const Reading& first() noexcept {
        static const Reading reading = take();
        return reading;
    }
};

void TickClock::begin_calibration() noexcept {
    if (is_trusted()) static_cast<void>(Reading::first());
}

TickClock TickClock::calibrated() noexcept {
    static const TickClock clock = is_trusted() ? counter() : monotonic();
    return clock;
}

TickClock TickClock::counter() noexcept {
    const Reading& first = Reading::first();
    const std::uint64_t age = monotonic_now() - first.nanoseconds;
    if (age < kBaseline) {
        const timespec rest{.tv_sec = 0, .tv_nsec = static_cast<long>(kBaseline - age)};
        nanosleep(&rest, nullptr);
    }
    const Reading second = Reading::take();
    // Backwards: the machine has slept.
    if (!kHasCounter || second.ticks <= first.ticks) return monotonic();
    const std::uint64_t ticks = second.ticks - first.ticks;
    return {true, static_cast<std::uint64_t>((Wide{second.nanoseconds - first.nanoseconds} << 32) /
                                             ticks)};
}

}  // namespace ashlar
