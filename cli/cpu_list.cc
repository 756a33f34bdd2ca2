#include "cli/cpu_list.h"

#include <fmt/format.h>
#include <utility>

#include "base/cpu_list.h"

namespace ashlar::cli {

Parsed<std::vector<int>> parse_cpus(std::string_view text) {
    auto cpus = parse_cpu_list(text);
    if (!cpus) return std::unexpected(fmt::format("'{}' is no list of CPUs; write 0-3,8", text));
    return std::move(*cpus);
}

Parsed<std::vector<std::vector<int>>> parse_queue_cpus(std::string_view text) {
    std::vector<std::vector<int>> lists;
    while (true) {
        const auto at = text.find('/');
        auto cpus = parse_cpus(text.substr(0, at));
        if (!cpus) return std::unexpected(cpus.error() + "; one list for each queue: 0/1/2-3");
        lists.push_back(std::move(*cpus));
        if (at == std::string_view::npos) return lists;
        text.remove_prefix(at + 1);
    }
}

}  // namespace ashlar::cli
