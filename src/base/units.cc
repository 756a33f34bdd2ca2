#include "base/units.h"

#include <array>
#include <cctype>
#include <cstdio>

namespace ashlar {
namespace {

constexpr std::string_view kAllowed =
    "write a number of bytes, or a number with K, M, G, T, P or E (powers of 1024), such as 512M";

// The power of 1024 that a suffix names; -1 for none that is known.
int suffix_power(std::string_view suffix) {
    if (suffix.empty() || suffix == "B" || suffix == "b") return 0;
    constexpr std::string_view letters = "kmgtpe";
    const auto letter = static_cast<char>(std::tolower(static_cast<unsigned char>(suffix[0])));
    const auto place = letters.find(letter);
    if (place == std::string_view::npos) return -1;
    const std::string_view rest = suffix.substr(1);
    if (!rest.empty() && rest != "iB" && rest != "B" && rest != "ib" && rest != "b") return -1;
    return static_cast<int>(place) + 1;
}

std::unexpected<std::string> refuse(std::string_view text, std::string_view why) {
    return std::unexpected("'" + std::string(text) + "' " + std::string(why) + ": " +
                           std::string(kAllowed));
}

}  // namespace

std::expected<std::uint64_t, std::string> parse_size(std::string_view text) {
    std::uint64_t whole = 0;
    std::size_t at = 0;
    const auto digit_at = [&](std::size_t place) {
        return place < text.size() && text[place] >= '0' && text[place] <= '9';
    };
    if (!digit_at(0)) return refuse(text, "is not a size");
    for (; digit_at(at); ++at) {
        const auto digit = static_cast<std::uint64_t>(text[at] - '0');
        if (__builtin_mul_overflow(whole, 10U, &whole) ||
            __builtin_add_overflow(whole, digit, &whole)) {
            return refuse(text, "is too large");
        }
    }
    std::uint64_t fraction = 0;
    std::uint64_t fraction_scale = 1;
    if (at < text.size() && text[at] == '.') {
        ++at;
        if (!digit_at(at)) return refuse(text, "is not a size");
        for (; digit_at(at); ++at) {
            if (fraction_scale >= 1'000'000) return refuse(text, "has too many digits");
            fraction = fraction * 10 + static_cast<std::uint64_t>(text[at] - '0');
            fraction_scale *= 10;
        }
    }
    const int power = suffix_power(text.substr(at));
    if (power < 0) return refuse(text, "is not a size");
    const int shift = power * 10;
    if (shift > 0 && (whole >> (64 - shift)) != 0) return refuse(text, "is too large");
    __extension__ typedef unsigned __int128 Wide;
    const Wide fraction_bytes = static_cast<Wide>(fraction) << shift;
    if (fraction_bytes % fraction_scale != 0) return refuse(text, "is not a whole number of bytes");
    std::uint64_t bytes = whole << shift;
    if (__builtin_add_overflow(bytes, static_cast<std::uint64_t>(fraction_bytes / fraction_scale),
                               &bytes)) {
        return refuse(text, "is too large");
    }
    return bytes;
}

std::string format_size(std::uint64_t bytes) {
    constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    std::size_t unit = 0;
    auto value = static_cast<double>(bytes);
    while (value >= 1024.0 && unit + 1 < units.size()) {
        value /= 1024.0;
        ++unit;
    }
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.4g %s", value, units[unit]);
    return text.data();
}

}  // namespace ashlar
