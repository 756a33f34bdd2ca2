// Which CPUs are near to one.
#pragma once

#include <string>
#include <vector>

namespace ashlar {

// Those that share the largest cache with it, itself among them, in ascending order; itself alone
// where the kernel does not tell. root: for tests.
[[nodiscard]] std::vector<int> cpus_near(int cpu,
                                         const std::string& root = "/sys/devices/system/cpu");

}  // namespace ashlar
