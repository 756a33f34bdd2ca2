#include "base/units.h"

#include <limits>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

constexpr std::uint64_t kKi = 1024;
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

struct Good {
    const char* text;
    std::uint64_t bytes;
};

TEST(ParseSize, Accepts) {
    const Good cases[] = {
        {"0", 0},
        {"1", 1},
        {"0007", 7},
        {"4096", 4096},
        {"512B", 512},
        {"512b", 512},
        {"1K", kKi},
        {"1k", kKi},
        {"1KB", kKi},
        {"1kb", kKi},
        {"1KiB", kKi},
        {"1kiB", kKi},
        {"1Kib", kKi},
        {"64K", 64 * kKi},
        {"256MiB", 256 * kKi * kKi},
        {"1GB", kKi * kKi * kKi},
        {"2T", 2 * kKi * kKi * kKi * kKi},
        {"3p", 3 * kKi * kKi * kKi * kKi * kKi},
        {"1E", std::uint64_t{1} << 60},
        {"15E", std::uint64_t{15} << 60},
        {"0E", 0},
        {"1.5G", 3 * kKi * kKi * kKi / 2},
        {"0.5K", 512},
        {"1.0", 1},
        {"2.000000", 2},
        {"0.000", 0},
        {"1.25KiB", 1280},
        {"0.015625K", 16},
        {"15.9375E", std::uint64_t{255} << 56},
        {"18446744073709551615", kMost},
        {"18446744073709551615B", kMost},
        {"17179869183G", std::uint64_t{17179869183} << 30},
    };
    for (const Good& good : cases) {
        const auto parsed = parse_size(good.text);
        ASSERT_TRUE(parsed) << good.text << ": " << parsed.error();
        EXPECT_EQ(*parsed, good.bytes) << good.text;
    }
}

struct Bad {
    const char* text;
    const char* why;
};

TEST(ParseSize, RefusesAndSaysWhatIsAllowed) {
    const Bad cases[] = {
        {"", "is not a size"},
        {" ", "is not a size"},
        {"K", "is not a size"},
        {"GiB", "is not a size"},
        {"-1", "is not a size"},
        {"+1", "is not a size"},
        {" 1", "is not a size"},
        {"1 ", "is not a size"},
        {"1 K", "is not a size"},
        {"0x1000", "is not a size"},
        {"1e3", "is not a size"},  // not a power of ten, and not 1E with something after it
        {"1E3", "is not a size"},
        {"1,5G", "is not a size"},
        {"1.", "is not a size"},
        {"1.K", "is not a size"},
        {".5K", "is not a size"},
        {"1..5K", "is not a size"},
        {"1.5.5K", "is not a size"},
        {"1X", "is not a size"},
        {"1Z", "is not a size"},
        {"1Ki", "is not a size"},
        {"1KK", "is not a size"},
        {"1KBB", "is not a size"},
        {"1iB", "is not a size"},
        {"1BB", "is not a size"},
        {"1Kbit", "is not a size"},
        {"1K\n", "is not a size"},
        {"nan", "is not a size"},
        {"1.5", "is not a whole number of bytes"},
        {"0.1K", "is not a whole number of bytes"},
        {"1.3M", "is not a whole number of bytes"},
        {"1.0000001K", "has too many digits"},
        {"18446744073709551616", "is too large"},
        {"99999999999999999999999999", "is too large"},
        {"16E", "is too large"},
        {"16EiB", "is too large"},
        {"16384P", "is too large"},
        {"17179869184G", "is too large"},
        {"18014398509481984K", "is too large"},
        {"16.5E", "is too large"},
    };
    for (const Bad& bad : cases) {
        const auto parsed = parse_size(bad.text);
        ASSERT_FALSE(parsed) << bad.text << " is " << *parsed;
        const std::string expected = "'" + std::string(bad.text) + "' " + bad.why +
                                     ": write a number of bytes, or a number with K, M, G, T, P "
                                     "or E (powers of 1024), such as 512M";
        EXPECT_EQ(parsed.error(), expected);
    }
}

TEST(ParseSize, ReadsNoFurtherThanTheText) {
    const char text[] = {'4', '0', '9', '6', 'K'};
    EXPECT_EQ(parse_size({text, 4}).value(), 4096U);
    EXPECT_EQ(parse_size({text, 1}).value(), 4U);
    using std::string_view_literals::operator""sv;
    EXPECT_FALSE(parse_size("1\0K"sv));
}

TEST(ParseDuration, Accepts) {
    using namespace std::chrono_literals;
    struct Time {
        const char* text;
        std::chrono::nanoseconds time;
    };
    const Time cases[] = {
        {"0s", 0ns},
        {"0ns", 0ns},
        {"1ns", 1ns},
        {"40us", 40us},
        {"10ms", 10ms},
        {"010ms", 10ms},
        {"5s", 5s},
        {"1.5s", 1500ms},
        {"0.25ms", 250us},
        {"2.0ns", 2ns},
        {"0.001us", 1ns},
        {"1.000001s", 1'000'001us},
        {"3600s", 3600s},
        {"9223372036s", 9'223'372'036s},
        {"9223372036854775807ns", std::chrono::nanoseconds::max()},
    };
    for (const Time& good : cases) {
        const auto parsed = parse_duration(good.text);
        ASSERT_TRUE(parsed) << good.text << ": " << parsed.error();
        EXPECT_EQ(*parsed, good.time) << good.text;
    }
}

TEST(ParseDuration, RefusesAndSaysWhatIsAllowed) {
    const Bad cases[] = {
        {"", "is not a time"},
        {"0", "is not a time"},
        {"10", "is not a time"},
        {"ms", "is not a time"},
        {"-1ms", "is not a time"},
        {"+1ms", "is not a time"},
        {"10 ms", "is not a time"},
        {"10ms ", "is not a time"},
        {"10MS", "is not a time"},
        {"10m", "is not a time"},
        {"1h", "is not a time"},
        {"1.s", "is not a time"},
        {".5s", "is not a time"},
        {"1e3s", "is not a time"},
        {"0.5ns", "is not a whole number of nanoseconds"},
        {"1.0001us", "is not a whole number of nanoseconds"},
        {"1.0000001s", "has too many digits"},
        {"18446744073709551616ns", "is too large"},
        {"9223372037s", "is too long"},
        {"9223372036854775808ns", "is too long"},
        {"18446744073709551615s", "is too long"},
    };
    for (const Bad& bad : cases) {
        const auto parsed = parse_duration(bad.text);
        ASSERT_FALSE(parsed) << bad.text << " is " << parsed->count();
        EXPECT_EQ(parsed.error(), "'" + std::string(bad.text) + "' " + bad.why +
                                      ": write a number with ns, us, ms or s, such as 10ms");
    }
}

TEST(FormatSize, ForPeople) {
    EXPECT_EQ(format_size(0), "0 B");
    EXPECT_EQ(format_size(1), "1 B");
    EXPECT_EQ(format_size(512), "512 B");
    EXPECT_EQ(format_size(1023), "1023 B");
    EXPECT_EQ(format_size(1024), "1 KiB");
    EXPECT_EQ(format_size(1536), "1.5 KiB");
    EXPECT_EQ(format_size(std::uint64_t{1} << 20), "1 MiB");
    EXPECT_EQ(format_size(std::uint64_t{1} << 30), "1 GiB");
    EXPECT_EQ(format_size(std::uint64_t{250} << 30), "250 GiB");
    EXPECT_EQ(format_size(std::uint64_t{1} << 40), "1 TiB");
    EXPECT_EQ(format_size(std::uint64_t{1} << 50), "1 PiB");
    EXPECT_EQ(format_size(std::uint64_t{1} << 60), "1 EiB");
    EXPECT_EQ(format_size(kMost), "16 EiB");
}

TEST(FormatSize, WhatParseSizeAcceptsComesBack) {
    for (const char* text : {"1 KiB", "1.5 MiB", "250 GiB", "8 TiB", "512 B"}) {
        std::string compact = text;
        compact.erase(compact.find(' '), 1);
        EXPECT_EQ(format_size(parse_size(compact).value()), text);
    }
}

TEST(Arithmetic, PowersOfTwo) {
    EXPECT_FALSE(is_power_of_two(0U));
    EXPECT_TRUE(is_power_of_two(1U));
    EXPECT_TRUE(is_power_of_two(4096U));
    EXPECT_FALSE(is_power_of_two(4097U));
    EXPECT_TRUE(is_power_of_two(std::uint64_t{1} << 63));
    EXPECT_FALSE(is_power_of_two(kMost));
}

TEST(Arithmetic, Rounding) {
    EXPECT_EQ(round_up(0U, 4096U), 0U);
    EXPECT_EQ(round_up(1U, 4096U), 4096U);
    EXPECT_EQ(round_up(4096U, 4096U), 4096U);
    EXPECT_EQ(round_up(4097U, 4096U), 8192U);
    EXPECT_EQ(round_up(kMost - 5000, 4096), kMost - 4095);
    EXPECT_EQ(round_down(4095U, 4096U), 0U);
    EXPECT_EQ(round_down(8191U, 4096U), 4096U);
    EXPECT_EQ(round_down(kMost, 4096), kMost - 4095);
}

}  // namespace
}  // namespace ashlar
