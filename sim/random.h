// Random: the one source of everything that a simulation draws. The same seed draws the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace ashlar::sim {

class Random {
public:
    explicit Random(std::uint64_t seed) noexcept : state_(seed ^ 0x5851'f42d'4c95'7f2d) {}

    // All 64 bits (SplitMix64).
    std::uint64_t next() noexcept {
        std::uint64_t z = (state_ += 0x9e37'79b9'7f4a'7c15);
        z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
        return z ^ (z >> 31);
    }
    // 0 to limit - 1; limit is not 0.
    std::uint64_t below(std::uint64_t limit) noexcept { return next() % limit; }
    // Both ends may come.
    std::uint64_t between(std::uint64_t least, std::uint64_t most) noexcept {
        return least + below(most - least + 1);
    }
    [[nodiscard]] bool chance(unsigned per_mille) noexcept { return below(1000) < per_mille; }
    template <class T>
    T pick(std::initializer_list<T> values) noexcept {
        return values.begin()[below(values.size())];
    }

private:
    std::uint64_t state_;
};

}  // namespace ashlar::sim
