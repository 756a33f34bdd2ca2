// Lists of CPUs, as users write them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/backend_spec.h"

namespace ashlar::cli {

// One list.
[[nodiscard]] Parsed<std::vector<int>> parse_cpus(std::string_view text);
// One for each queue, with slashes between: "0/1/2-3".
[[nodiscard]] Parsed<std::vector<std::vector<int>>> parse_queue_cpus(std::string_view text);

}  // namespace ashlar::cli
