// BusyPoll: whether a thread looks for work before it sleeps, by how long it had to wait lately.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/tick_clock.h"

namespace ashlar {

class BusyPoll {
public:
    // limit: of one look; zero: never.
    explicit BusyPoll(std::chrono::microseconds limit) noexcept
        : limit_(static_cast<std::uint64_t>(limit.count()) * 1000) {}

    [[nodiscard]] bool wanted() const noexcept { return limit_ != 0; }
    [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }  // nanoseconds

    // True while waits are short: a look then most likely finds something.
    [[nodiscard]] bool pays() const noexcept { return average_ <= limit_; }

    // What the last wait took, in nanoseconds, whether looking or asleep. A single long one, such
    // as a pause between two bursts, stops the looking until short ones are the rule again.
    void waited(std::uint64_t nanoseconds) noexcept {
        const std::uint64_t most = limit_ * kWeight;
        average_ = (average_ * (kWeight - 1) + std::min(nanoseconds, most)) / kWeight;
    }

private:
    static constexpr std::uint64_t kWeight = 8;
    const std::uint64_t limit_;
    std::uint64_t average_ = 0;
};

// Tells the CPU that this is a loop that waits.
inline void relax_cpu() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace ashlar
