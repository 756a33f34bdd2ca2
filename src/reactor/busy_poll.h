// BusyPoll: whether a thread looks for work before it sleeps, by what its last looks were good for.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace ashlar {

class BusyPoll {
public:
    // limit: of one look; zero: never.
    explicit BusyPoll(std::chrono::microseconds limit) noexcept
        : limit_(static_cast<std::uint64_t>(limit.count()) * 1000) {}

    [[nodiscard]] bool wanted() const noexcept { return limit_ != 0; }
    [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }  // nanoseconds

    // Asked before each wait: true when it is to look first, and then tell what came of it.
    [[nodiscard]] bool is_turn() noexcept {
        if (left_out_ == 0) return true;
        --left_out_;
        return false;
    }
    // One that found something is followed by the next. One in vain, because waits are longer, or
    // because whoever is waited for needs this CPU, is followed by ever more waits without.
    void looked(bool found) noexcept {
        left_out_ = found ? 0 : in_vain_;
        in_vain_ = found ? 1 : std::min(2 * in_vain_, kLeftOutMost);
    }

private:
    static constexpr unsigned kLeftOutMost = 1024;
    const std::uint64_t limit_;
    unsigned left_out_ = 0;  // waits without a look, from now on
    unsigned in_vain_ = 1;   // so many after the next look in vain
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
