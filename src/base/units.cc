#include "base/units.h"

#include <array>
#include <cctype>
#include <cstdio>
#include <limits>

namespace ashlar {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr std::string_view kSizeAllowed =
    "write a number of bytes, or a number with K, M, G, T, P or E (powers of 1024), such as 512M";
constexpr std::string_view kDurationAllowed = "write a number with ns, us, ms or s, such as 10ms";

// "12.5ms": 12, 5 of 10, "ms".
struct Decimal {
    std::uint64_t whole = 0;
    std::uint64_t fraction = 0;
    std::uint64_t fraction_scale = 1;  // a power of ten, at most a million
    std::string_view unit;
};

// The error is what is wrong with it, to come before what is allowed. kind: "a size".
std::expected<Decimal, std::string> parse_decimal(std::string_view text, std::string_view kind) {
    const auto refuse = [&](std::string_view why) {
        return std::unexpected("'" + std::string(text) + "' " + std::string(why));
    };
    const auto refuse_kind = [&] { return refuse("is not " + std::string(kind)); };
    const auto digit_at = [&](std::size_t place) {
        return place < text.size() && text[place] >= '0' && text[place] <= '9';
    };
    Decimal decimal;
    std::size_t at = 0;
    if (!digit_at(0)) return refuse_kind();
    for (; digit_at(at); ++at) {
        const auto digit = static_cast<std::uint64_t>(text[at] - '0');
        if (__builtin_mul_overflow(decimal.whole, 10U, &decimal.whole) ||
            __builtin_add_overflow(decimal.whole, digit, &decimal.whole)) {
            return refuse("is too large");
        }
    }
    if (at < text.size() && text[at] == '.') {
        ++at;
        if (!digit_at(at)) return refuse_kind();
        for (; digit_at(at); ++at) {
            if (decimal.fraction_scale >= 1'000'000) return refuse("has too many digits");
            decimal.fraction = decimal.fraction * 10 + static_cast<std::uint64_t>(text[at] - '0');
            decimal.fraction_scale *= 10;
        }
    }
    decimal.unit = text.substr(at);
    return decimal;
}

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

// Nanoseconds; 0 for none that is known.
std::uint64_t duration_unit(std::string_view unit) {
    if (unit == "ns") return 1;
    if (unit == "us") return 1'000;
    if (unit == "ms") return 1'000'000;
    if (unit == "s") return 1'000'000'000;
    return 0;
}

std::string sentence(std::string_view wrong, std::string_view allowed) {
    return std::string(wrong) + ": " + std::string(allowed);
}

std::unexpected<std::string> refuse(std::string_view text, std::string_view why,
                                    std::string_view allowed) {
    return std::unexpected(sentence("'" + std::string(text) + "' " + std::string(why), allowed));
}

}  // namespace

std::expected<std::uint64_t, std::string> parse_size(std::string_view text) {
    const auto decimal = parse_decimal(text, "a size");
    if (!decimal) return std::unexpected(sentence(decimal.error(), kSizeAllowed));
    const int power = suffix_power(decimal->unit);
    if (power < 0) return refuse(text, "is not a size", kSizeAllowed);
    const int shift = power * 10;
    const Wide fraction = static_cast<Wide>(decimal->fraction) << shift;
    if (fraction % decimal->fraction_scale != 0) {
        return refuse(text, "is not a whole number of bytes", kSizeAllowed);
    }
    const Wide bytes =
        (static_cast<Wide>(decimal->whole) << shift) + fraction / decimal->fraction_scale;
    if (bytes > std::numeric_limits<std::uint64_t>::max()) {
        return refuse(text, "is too large", kSizeAllowed);
    }
    return static_cast<std::uint64_t>(bytes);
}

std::expected<std::chrono::nanoseconds, std::string> parse_duration(std::string_view text) {
    const auto decimal = parse_decimal(text, "a time");
    if (!decimal) return std::unexpected(sentence(decimal.error(), kDurationAllowed));
    const std::uint64_t unit = duration_unit(decimal->unit);
    if (unit == 0) return refuse(text, "is not a time", kDurationAllowed);
    const std::uint64_t fraction = decimal->fraction * unit;  // at most 10^6 times 10^9
    if (fraction % decimal->fraction_scale != 0) {
        return refuse(text, "is not a whole number of nanoseconds", kDurationAllowed);
    }
    const Wide time = static_cast<Wide>(decimal->whole) * unit + fraction / decimal->fraction_scale;
    using Count = std::chrono::nanoseconds::rep;
    if (time > static_cast<Wide>(std::numeric_limits<Count>::max())) {
        return refuse(text, "is too long", kDurationAllowed);
    }
    return std::chrono::nanoseconds(static_cast<Count>(time));
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
