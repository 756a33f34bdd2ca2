#include "base/cpu_list.h"

#include <charconv>

namespace ashlar {
namespace {

// Takes a number from the front; negative if there is none.
int take_number(std::string_view& text) {
    int number = -1;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc() || number > kCpuMost) return -1;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return number;
}

bool take(std::string_view& text, char wanted) {
    if (!text.starts_with(wanted)) return false;
    text.remove_prefix(1);
    return true;
}

}  // namespace

std::optional<std::vector<int>> parse_cpu_list(std::string_view text) {
    std::vector<int> cpus;
    do {
        const int first = take_number(text);
        const int last = take(text, '-') ? take_number(text) : first;
        if (first < 0 || last < first) return std::nullopt;
        for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    } while (take(text, ','));
    if (!text.empty()) return std::nullopt;
    return cpus;
}

}  // namespace ashlar
