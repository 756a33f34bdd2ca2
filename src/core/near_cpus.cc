#include "core/near_cpus.h"

#include <sched.h>
#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string_view>

namespace ashlar {
namespace {

std::optional<int> take_number(std::string_view& text) {
    int number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc() || number < 0 || number >= CPU_SETSIZE) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return number;
}

// As the kernel writes them: "0-3,8". Empty if it is anything else.
std::vector<int> parse_list(std::string_view text) {
    std::vector<int> cpus;
    while (true) {
        const auto first = take_number(text);
        if (!first) return {};
        int last = *first;
        if (text.starts_with('-')) {
            text.remove_prefix(1);
            const auto until = take_number(text);
            if (!until || *until < *first) return {};
            last = *until;
        }
        for (int cpu = *first; cpu <= last; ++cpu) cpus.push_back(cpu);
        if (text.empty()) return cpus;
        if (!text.starts_with(',')) return {};
        text.remove_prefix(1);
    }
}

}  // namespace

std::vector<int> cpus_near(int cpu, const std::string& root) {
    std::vector<int> nearest;
    const std::string caches = root + "/cpu" + std::to_string(cpu) + "/cache/index";
    for (int index = 0;; ++index) {
        std::ifstream file(caches + std::to_string(index) + "/shared_cpu_list");
        std::string line;
        if (!std::getline(file, line)) break;
        auto cpus = parse_list(line);
        if (cpus.size() > nearest.size() && std::ranges::find(cpus, cpu) != cpus.end()) {
            nearest = std::move(cpus);
        }
    }
    if (nearest.empty()) nearest.push_back(cpu);
    std::ranges::sort(nearest);
    return nearest;
}

}  // namespace ashlar
