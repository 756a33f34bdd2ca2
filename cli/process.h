// Other processes, by number.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace ashlar::cli {

// In the kernel's ticks since it booted: with the number, which process it is. 0: there is none.
[[nodiscard]] std::uint64_t process_start(std::int32_t process);

// Refers to the process that started then, whatever becomes of its number. Empty when it is gone.
// start: 0 if it is not known.
[[nodiscard]] Fd open_process(std::int32_t process, std::uint64_t start = 0);

// A process that has ended, and that nobody asked about yet, is not.
[[nodiscard]] bool is_alive(std::int32_t process, std::uint64_t start = 0);

// Whether it ends within the time. bound_ms: -1: without end.
bool await_end(const Fd& process, int bound_ms);

}  // namespace ashlar::cli
