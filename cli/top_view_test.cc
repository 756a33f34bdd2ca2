#include "cli/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// `seconds` after its start, with so many reads of 4 KiB, each of them of `latency`.
TopSample sample(DeviceId id, int seconds, std::uint64_t reads, std::uint64_t latency = 1000) {
    const std::chrono::steady_clock::time_point began(100s);
    Metrics metrics{.began = began,
                    .from = began,
                    .taken = began + std::chrono::seconds(seconds),
                    .timed = true,
                    .queues = std::vector<QueueMetrics>(1),
                    .backend = {}};
    OpMetrics& op = metrics.queues[0][Op::read];
    op.count = reads;
    op.bytes = reads * 4096;
    op.latency.add(latency, reads);
    op.waiting.add(0, reads);
    op.service.add(latency, reads);
    metrics.queues[0].in_flight = 7;
    return {.info = {.id = id, .state = DeviceState::live, .queues = 1, .depth = 128, .pid = 4711},
            .type = "mem",
            .size = 1 << 30,
            .metrics = std::move(metrics)};
}

std::vector<std::string> device_lines(const TopView& view) {
    auto lines = view.render(200, 40).lines;
    std::vector<std::string> found;
    for (const auto& line : lines) {
        if (line.starts_with("ublkb")) found.push_back(line.substr(0, line.find(' ')));
    }
    return found;
}

TEST(TopView, NothingIsSaidSo) {
    TopView view(true);
    view.update({});
    const auto screen = view.render(80, 24);
    EXPECT_THAT(screen.lines.back(), HasSubstr("no ublk devices"));
    EXPECT_EQ(screen.picked, -1);
    view.pick_next();
}

TEST(TopView, RatesAreThoseBetweenTwoLooks) {
    TopView view(false);
    view.update({sample(3, 10, 50'000)});
    view.update({sample(3, 12, 52'000, 20'000)});
    const auto screen = view.render(160, 24);
    ASSERT_EQ(screen.picked, 2);
    const std::string& line = screen.lines[2];
    EXPECT_THAT(line, StartsWith("ublkb3   mem     live"));
    EXPECT_THAT(line, HasSubstr("1.00k"));
    EXPECT_THAT(line, HasSubstr("3.906 MiB"));
    EXPECT_THAT(line, HasSubstr(" us"));
    EXPECT_THAT(line, HasSubstr("      7 "));
    EXPECT_EQ(line.back(), '#') << "the only value is the highest";
    bool has_detail = false;
    for (const auto& each : screen.lines) {
        has_detail |= each.starts_with("/dev/ublkb3: mem of 1 GiB, 1 queues of depth 128");
    }
    EXPECT_TRUE(has_detail);
}

TEST(TopView, AServerThatDoesNotAnswerIsShown) {
    TopView view(false);
    TopSample mute = sample(1, 1, 1);
    mute.metrics.reset();
    view.update({mute});
    EXPECT_THAT(view.render(160, 24).lines[2], HasSubstr("no server of Ashlar answers"));
}

TEST(TopView, SortsByWhatIsAskedFor) {
    TopView view(false);
    view.update({sample(0, 1, 100), sample(1, 1, 100), sample(2, 1, 100)});
    view.update({sample(0, 2, 200, 9000), sample(1, 2, 900), sample(2, 2, 500, 70'000)});
    using Names = std::vector<std::string>;
    EXPECT_EQ(device_lines(view), (Names{"ublkb0", "ublkb1", "ublkb2"}));
    view.next_order();
    EXPECT_EQ(device_lines(view), (Names{"ublkb1", "ublkb2", "ublkb0"}));
    view.next_order();
    EXPECT_EQ(device_lines(view), (Names{"ublkb1", "ublkb2", "ublkb0"}));
    view.next_order();
    EXPECT_EQ(device_lines(view), (Names{"ublkb2", "ublkb0", "ublkb1"}));
    view.reverse();
    EXPECT_EQ(device_lines(view), (Names{"ublkb1", "ublkb0", "ublkb2"}));
}

TEST(TopView, ThePickedOneStaysPickedAndVisible) {
    TopView view(false);
    std::vector<TopSample> many;
    for (DeviceId id = 0; id < 50; ++id) many.push_back(sample(id, 1, 1));
    view.update(many);
    for (int step = 0; step < 60; ++step) view.pick_next();
    auto screen = view.render(120, 20);
    EXPECT_LE(screen.lines.size(), 20U);
    ASSERT_GE(screen.picked, 2);
    EXPECT_THAT(screen.lines[static_cast<std::size_t>(screen.picked)], StartsWith("ublkb49 "));
    view.pick_last();
    screen = view.render(120, 20);
    EXPECT_THAT(screen.lines[static_cast<std::size_t>(screen.picked)], StartsWith("ublkb48 "));
    many.pop_back();
    many.pop_back();
    view.update(many);
    screen = view.render(120, 20);
    EXPECT_THAT(screen.lines[static_cast<std::size_t>(screen.picked)], StartsWith("ublkb0 "))
        << "it is gone";
}

TEST(TopView, AnotherDeviceOfTheSameNumberHasNoPast) {
    TopView view(false);
    view.update({sample(0, 1, 100)});
    TopSample other = sample(0, 2, 5000);
    other.info.identity = 9;
    view.update({other});
    EXPECT_THAT(view.render(160, 24).lines[2], Not(HasSubstr("4.90k")));
}

TEST(TopView, FitsWhateverTheTerminalIs) {
    TopView view(true);
    view.update({sample(0, 1, 100)});
    view.update({sample(0, 2, 200)});
    for (int width = 1; width < 250; width += 7) {
        for (const int height : {1, 2, 3, 5, 24}) {
            const auto screen = view.render(width, height);
            ASSERT_LE(static_cast<int>(screen.lines.size()), height);
            for (const auto& line : screen.lines) {
                int columns = 0;
                for (const char c : line) columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
                ASSERT_LE(columns, width);
            }
        }
    }
}

}  // namespace
}  // namespace ashlar::cli
