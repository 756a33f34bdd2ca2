#include "cli/spec_reader.h"

#include <array>
#include <cerrno>

#include <ashlar/device.h>

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

// One option "x" of that value.
Spec with(std::string value) { return {.type = "t", .options = {{"x", std::move(value)}}}; }

// What a reading of "x" complains about; empty if it does not.
template <class Read>
std::string complaint(const std::string& value, Read read) {
    const Spec spec = with(value);
    SpecReader reader(spec, "t: ");
    static_cast<void>(read(reader));
    return reader.complaint().value_or("");
}

template <class Read>
auto value_of(const std::string& value, Read read) {
    const Spec spec = with(value);
    SpecReader reader(spec, "t: ");
    auto result = read(reader);
    EXPECT_EQ(reader.complaint(), std::nullopt) << value;
    return result;
}

TEST(SpecReader, WithoutTheKeyEverythingIsTheFallback) {
    const Spec spec{.type = "t", .options = {{"flag", std::nullopt}}};
    SpecReader reader(spec, "--");
    EXPECT_TRUE(reader.has("flag"));
    EXPECT_EQ(reader.text("flag"), nullptr);
    EXPECT_FALSE(reader.has("x"));
    EXPECT_EQ(reader.size("x", 7), 7U);
    EXPECT_EQ(reader.small_size("x", 7), 7U);
    EXPECT_EQ(reader.number("x", 1, 9, 7), 7U);
    EXPECT_EQ(reader.duration("x", 7s), 7s);
    EXPECT_EQ(reader.rate("x", 0.5), 0.5);
    EXPECT_EQ(reader.latency("x").mean, 0s);
    EXPECT_TRUE(reader.operations("x").empty());
    EXPECT_FALSE(reader.range("x"));
    EXPECT_EQ(reader.error_number("x", EIO), EIO);
    EXPECT_EQ(reader.complaint(), std::nullopt);
}

TEST(SpecReader, KeepsTheFirstComplaint) {
    const Spec spec{.type = "t", .options = {{"a", "lots"}, {"b", "more"}}};
    SpecReader reader(spec, "--");
    reader.size("a", 0);
    reader.size("b", 0);
    reader.refuse("something else");
    EXPECT_EQ(reader.complaint()->substr(0, 26), "--a: 'lots' is not a size:");
}

TEST(SpecReader, Sizes) {
    const auto size = [](SpecReader& reader) { return reader.size("x", 0); };
    const auto small = [](SpecReader& reader) { return reader.small_size("x", 0); };
    EXPECT_EQ(value_of("1G", size), 1U << 30);
    EXPECT_EQ(value_of("64K", small), 65536U);
    EXPECT_EQ(complaint("4G", small), "t: x: 4G is too large");
    EXPECT_EQ(complaint("x", size).substr(0, 24), "t: x: 'x' is not a size:");
}

TEST(SpecReader, Numbers) {
    const auto number = [](SpecReader& reader) { return reader.number("x", 1, 4096, 0); };
    EXPECT_EQ(value_of("010", number), 10U);
    for (const char* bad : {"", "0", "4097", "-1", "+1", "0x10", "1K", " 1", "two"}) {
        EXPECT_EQ(complaint(bad, number),
                  "t: x is '" + std::string(bad) + "'; allowed are 1 to 4096");
    }
}

TEST(SpecReader, Rates) {
    const auto rate = [](SpecReader& reader) { return reader.rate("x", 0); };
    EXPECT_EQ(value_of("0", rate), 0.0);
    EXPECT_EQ(value_of("0.25", rate), 0.25);
    EXPECT_EQ(value_of("1", rate), 1.0);
    for (const char* bad : {"", "1.01", "-0.1", "nan", "inf", "1e-3", "0,5", "50%", " 1"}) {
        EXPECT_EQ(complaint(bad, rate),
                  "t: x is '" + std::string(bad) + "'; allowed are 0 to 1, such as 0.01");
    }
}

TEST(SpecReader, Latencies) {
    const auto latency = [](SpecReader& reader) { return reader.latency("x"); };
    const auto is = [&](const char* text, Latency::Shape shape, auto mean, auto spread) {
        const Latency read = value_of(text, latency);
        return read.shape == shape && read.mean == mean && read.spread == spread;
    };
    EXPECT_TRUE(is("10ms", Latency::Shape::fixed, 10ms, 0s));
    EXPECT_TRUE(is("uniform/10ms/2ms", Latency::Shape::uniform, 10ms, 2ms));
    EXPECT_TRUE(is("normal/1.5s/40us", Latency::Shape::normal, 1500ms, 40us));
    EXPECT_TRUE(is("exponential/10ns", Latency::Shape::exponential, 10ns, 0s));
    for (const char* bad : {"", "10", "ms", "10ms/2ms", "uniform", "uniform/10ms", "normal/10ms",
                            "exponential/10ms/2ms", "exponential/", "uniform/10ms/2ms/1ms",
                            "pareto/10ms", "fixed/10ms", "/10ms", "10ms/"}) {
        EXPECT_EQ(complaint(bad, latency),
                  "t: x: '" + std::string(bad) +
                      "' is no latency: write a time such as 10ms, uniform/10ms/2ms (mean, "
                      "spread), normal/10ms/2ms or exponential/10ms");
    }
}

TEST(SpecReader, Durations) {
    const auto duration = [](SpecReader& reader) { return reader.duration("x", 0s); };
    EXPECT_EQ(value_of("5s", duration), 5s);
    EXPECT_EQ(complaint("5", duration),
              "t: x: '5' is not a time: write a number with ns, us, ms or s, such as 10ms");
}

TEST(SpecReader, Operations) {
    const auto operations = [](SpecReader& reader) { return reader.operations("x"); };
    EXPECT_EQ(value_of("write+flush", operations), (std::vector<Op>{Op::write, Op::flush}));
    EXPECT_EQ(value_of("read+discard+write-zeroes", operations),
              (std::vector<Op>{Op::read, Op::discard, Op::write_zeroes}));
    EXPECT_EQ(complaint("write+sync", operations),
              "t: x: 'sync' is no operation; allowed are read, write, flush, discard, "
              "write-zeroes, with + between");
    for (const char* bad : {"", "+", "write+", "Write", "write,flush"}) {
        EXPECT_NE(complaint(bad, operations), "") << bad;
    }
}

TEST(SpecReader, Ranges) {
    const auto range = [](SpecReader& reader) { return reader.range("x"); };
    const auto read = value_of("1M+64K", range);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->offset, 1U << 20);
    EXPECT_EQ(read->length, 65536U);
    for (const char* bad : {"", "1M", "1M+", "+1M", "1M+0", "1M-2M", "1M+1M+1M", "a+b"}) {
        EXPECT_EQ(complaint(bad, range),
                  "t: x: '" + std::string(bad) +
                      "' is no range; write an offset and a length, such as 1M+64K");
    }
}

TEST(SpecReader, ErrorNumbers) {
    const auto number = [](SpecReader& reader) { return reader.error_number("x", 0); };
    EXPECT_EQ(value_of("EIO", number), EIO);
    EXPECT_EQ(value_of("ENOSPC", number), ENOSPC);
    EXPECT_EQ(value_of("EREMOTEIO", number), EREMOTEIO);
    EXPECT_EQ(value_of("28", number), ENOSPC);
    for (const char* bad : {"", "0", "134", "-5", "eio", "IO", "EWHAT", "EIO "}) {
        EXPECT_EQ(complaint(bad, number),
                  "t: x: '" + std::string(bad) +
                      "' is no errno; write a name such as EIO or ENOSPC, or 1 to 133");
    }
}

TEST(SpecReader, ChoicesByName) {
    constexpr std::array values = {CommandStyle::automatic, CommandStyle::per_io};
    const auto choice = [&](SpecReader& reader) {
        return reader.choice<CommandStyle>("x", values, CommandStyle::batch);
    };
    EXPECT_EQ(value_of("per-io", choice), CommandStyle::per_io);
    EXPECT_EQ(complaint("batch", choice), "t: x is 'batch'; allowed are auto, per-io");
    EXPECT_EQ(complaint("", choice), "t: x is ''; allowed are auto, per-io");
}

}  // namespace
}  // namespace ashlar::cli
