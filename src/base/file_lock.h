// The advisory lock of a file (flock(2)), which keeps a second writer out.
#pragma once

#include <chrono>

namespace ashlar {

// Takes it for this description of the file; it goes with the last descriptor of that, or mapping.
// shared: among those who do the same. patience: how long to try while another has it.
// Answers 0 or an errno; EBUSY: another has it.
[[nodiscard]] int lock_file(int fd, bool shared = false,
                            std::chrono::milliseconds patience = {}) noexcept;

// For what a killed process had open: the kernel may let go of it a moment after its end.
inline constexpr std::chrono::milliseconds kLockPatience{1000};

}  // namespace ashlar
