#include "base/tick_clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace ashlar {
namespace {

using namespace std::chrono_literals;

// What it says of a while lies between what another clock says just inside and just outside it.
void expect_agreement(TickClock clock) {
    using Other = std::chrono::steady_clock;
    const auto outer = Other::now();
    const std::uint64_t begun = clock.now();
    const auto inner = Other::now();
    std::this_thread::sleep_for(30ms);
    const auto shorter = Other::now() - inner;
    const std::uint64_t ended = clock.now();
    const auto longer = Other::now() - outer;
    const auto took = static_cast<double>(clock.nanoseconds(ended - begun));
    EXPECT_GE(took, static_cast<double>(shorter.count()) * 0.999);
    EXPECT_LE(took, static_cast<double>(longer.count()) * 1.001);
}

TEST(TickClock, AgreesWithTheSteadyClock) {
    expect_agreement(TickClock::counter());
    expect_agreement(TickClock::calibrated());
}

TEST(TickClock, AgreesWithItWhereThereIsNoCounter) {
    EXPECT_FALSE(TickClock::monotonic().has_counter());
    EXPECT_EQ(TickClock::monotonic().nanoseconds(1'234'567), 1'234'567U);
    expect_agreement(TickClock::monotonic());
}

TEST(TickClock, LongTimesDoNotOverflow) {
    constexpr std::uint64_t century = 3'000'000'000ULL * 1'000'000'000ULL;
    EXPECT_EQ(TickClock::monotonic().nanoseconds(century), century);
}

}  // namespace
}  // namespace ashlar
