#include "cli/cpu_list.h"

#include <fmt/format.h>
#include <charconv>
#include <memory>

namespace ashlar::cli {
namespace {

// Takes a number from the front; negative if there is none.
int take_number(std::string_view& text) {
    int number = -1;
    const char* const begin = std::to_address(text.begin());
    const auto parsed = std::from_chars(begin, std::to_address(text.end()), number);
    if (parsed.ec != std::errc{} || number > kCpuMost) return -1;
    text.remove_prefix(static_cast<std::size_t>(parsed.ptr - begin));
    return number;
}

bool take(std::string_view& text, char wanted) {
    if (!text.starts_with(wanted)) return false;
    text.remove_prefix(1);
    return true;
}

}  // namespace

Parsed<std::vector<int>> parse_cpus(std::string_view text) {
    const std::string_view whole = text;
    std::vector<int> cpus;
    do {
        const int first = take_number(text);
        const int last = take(text, '-') ? take_number(text) : first;
        if (first < 0 || last < first) {
            cpus.clear();
            break;
        }
        for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    } while (take(text, ','));
    if (cpus.empty() || !text.empty()) {
        return std::unexpected(fmt::format("'{}' is no list of CPUs; write 0-3,8", whole));
    }
    return cpus;
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
