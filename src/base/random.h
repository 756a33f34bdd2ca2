// Randomness from the kernel.
#pragma once

#include <sys/random.h>
#include <cstdint>

namespace ashlar {

// Never 0. May wait for the kernel's generator right after the machine's start.
[[nodiscard]] inline std::uint64_t random_nonzero() noexcept {
    std::uint64_t value = 0;
    while (value == 0) {
        // Eight bytes are never given in part; EINTR is the only failure.
        static_cast<void>(getrandom(&value, sizeof(value), 0) == sizeof(value));
    }
    return value;
}

}  // namespace ashlar
