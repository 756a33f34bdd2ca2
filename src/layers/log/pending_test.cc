#include "layers/log/pending.h"

#include <gtest/gtest.h>

namespace ashlar::layers {
namespace {

std::string text(const std::vector<Range>& ranges) {
    std::string result;
    for (const Range& range : ranges) {
        result += std::to_string(range.offset) + "+" + std::to_string(range.length) + " ";
    }
    return result;
}

std::string left_after(std::vector<Range> cuts) {
    Pending pending{.record = {.range = {100, 100}}, .left = {{100, 100}}};
    for (const Range& cut : cuts) pending.cut(cut);
    return text(pending.left);
}

TEST(Pending, CutsLeaveTheRest) {
    EXPECT_EQ(left_after({}), "100+100 ");
    EXPECT_EQ(left_after({{0, 100}}), "100+100 ");
    EXPECT_EQ(left_after({{200, 100}}), "100+100 ");
    EXPECT_EQ(left_after({{0, 150}}), "150+50 ");
    EXPECT_EQ(left_after({{150, 100}}), "100+50 ");
    EXPECT_EQ(left_after({{120, 10}}), "100+20 130+70 ");
    EXPECT_EQ(left_after({{120, 10}, {110, 50}}), "100+10 160+40 ");
    EXPECT_EQ(left_after({{100, 100}}), "");
    EXPECT_EQ(left_after({{0, 1000}}), "");
}

TEST(Pending, CoversWhatIsLeft) {
    Pending pending{.record = {.range = {100, 100}}, .left = {{100, 20}, {130, 70}}};
    EXPECT_FALSE(pending.covers(99));
    EXPECT_TRUE(pending.covers(100));
    EXPECT_TRUE(pending.covers(119));
    EXPECT_FALSE(pending.covers(120));
    EXPECT_TRUE(pending.covers(199));
    EXPECT_FALSE(pending.covers(200));
    EXPECT_EQ(pending.data_at(130), 30U);
}

TEST(Pending, CompletedBefore) {
    EXPECT_FALSE(Pending{}.completed_before(UINT64_MAX));
    EXPECT_TRUE(Pending{.completed_at = 64}.completed_before(128));
    EXPECT_FALSE(Pending{.completed_at = 128}.completed_before(128));
}

TEST(Split, InWholeBlocksAndNotTooMany) {
    EXPECT_EQ(text(split({1024, 1536}, 512)), "1024+512 1536+512 2048+512 ");
    EXPECT_EQ(text(split({4096, 4096}, 4096)), "4096+4096 ");
    const std::uint64_t large = (std::uint64_t{1} << 30) + 512;
    const auto pieces = split({512, large}, 512);
    EXPECT_LE(pieces.size(), 256U);
    std::uint64_t at = 512;
    for (const Range& piece : pieces) {
        EXPECT_EQ(piece.offset, at);
        EXPECT_EQ(piece.length % 512, 0U);
        at += piece.length;
    }
    EXPECT_EQ(at, 512 + large);
}

}  // namespace
}  // namespace ashlar::layers
