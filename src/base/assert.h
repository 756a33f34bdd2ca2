// Invariants that hold in every build. A broken one ends the process: a block device that guesses
// is worse than one that is gone, and the kernel then fails or reissues what was in flight.
#pragma once

namespace ashlar {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace ashlar

#define ASHLAR_ASSERT(expression)        \
    (__builtin_expect(!!(expression), 1) \
         ? static_cast<void>(0)          \
         : ::ashlar::assertion_failed(#expression, __FILE__, __LINE__))
