// Lists of CPUs, as the kernel writes them: "0-3,8".
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace ashlar {

inline constexpr int kCpuMost = 65'535;  // the largest number of one

// In the order in which they are written. None: the text is anything else, or empty.
[[nodiscard]] std::optional<std::vector<int>> parse_cpu_list(std::string_view text);

}  // namespace ashlar
