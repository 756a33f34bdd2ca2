// Lists of CPUs, as the kernel writes them: "0-3,8".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/backend_spec.h"

namespace ashlar::cli {

constexpr int kCpuMost = 65'535;  // the largest number of one

// One list.
[[nodiscard]] Parsed<std::vector<int>> parse_cpus(std::string_view text);
// One for each queue, with slashes between: "0/1/2-3".
[[nodiscard]] Parsed<std::vector<std::vector<int>>> parse_queue_cpus(std::string_view text);

}  // namespace ashlar::cli
