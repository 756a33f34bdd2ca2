#include <cerrno>
#include <set>

#include <gtest/gtest.h>

#include <ashlar/log_replayer.h>

#include "layers/log/test_log.h"
#include "layers/log/test_place.h"

namespace ashlar {
namespace {

using layers::TestLog;
using layers::TestPlace;
using Kind = layers::LogRecord::Kind;

constexpr std::uint64_t kBlock = 512;
constexpr std::uint64_t kSize = 16 * kBlock;

class ReplayerTest : public testing::Test {
protected:
    void open() {
        replayer.emplace(LogReplayer::open({.log = log.path(), .image = image}).value());
    }
    // Past the start, which is the disk before anything.
    void start() {
        open();
        EXPECT_EQ(advance(), 64U);
        EXPECT_EQ(last.kind, LogBoundary::Kind::start);
        EXPECT_EQ(disk(), std::string(kSize / kBlock, '.'));
    }
    // The sequence of the next boundary, 0 after the last.
    std::uint64_t advance() {
        const auto boundary = replayer->advance();
        EXPECT_TRUE(boundary) << boundary.error().message();
        if (!boundary || !*boundary) return 0;
        last = **boundary;
        return last.sequence;
    }
    std::set<std::string> disks_with_unflushed(std::uint64_t seeds) {
        std::set<std::string> seen;
        for (std::uint64_t seed = 0; seed < seeds; ++seed) {
            EXPECT_TRUE(replayer->add_unflushed(seed));
            seen.insert(disk());
        }
        return seen;
    }
    // A letter for each block, '.' for zeroes, '?' for a torn one.
    static std::string letters(const std::string& disk) {
        std::string result;
        for (std::size_t at = 0; at < disk.size(); at += kBlock) {
            const std::string block = disk.substr(at, kBlock);
            const char first = block.front();
            const bool whole = block == std::string(kBlock, first);
            result += !whole ? '?' : first == '\0' ? '.' : first;
        }
        return result;
    }
    [[nodiscard]] std::string disk() const { return letters(TestPlace::content(image)); }
    std::uint64_t write(std::uint64_t block, std::uint64_t blocks, char content, bool fua = false) {
        return log.write(block * kBlock, blocks * kBlock, content, fua);
    }
    std::uint64_t written(std::uint64_t block, std::uint64_t blocks, char content) {
        return log.written(block * kBlock, blocks * kBlock, content);
    }

    TestPlace place;
    std::string image = place / "image";
    TestLog log{{.disk_size = kSize, .block = kBlock}};
    std::optional<LogReplayer> replayer;
    LogBoundary last{};
};

// ---- What is durable ---------------------------------------------------------------------------

TEST_F(ReplayerTest, AFlushMakesDurableWhatWasAnsweredBeforeItBegan) {
    written(0, 2, 'a');
    const auto open_write = write(2, 2, 'b');
    const auto flush = log.flush();
    log.complete(open_write);  // too late for that flush
    log.complete(flush);
    const auto first = log.bytes.size();
    written(5, 1, 'c');
    const auto second = log.flushed();
    written(6, 1, 'd');
    start();
    EXPECT_EQ(last.until, first);
    EXPECT_EQ(advance(), first);
    EXPECT_EQ(last.kind, LogBoundary::Kind::flush);
    EXPECT_EQ(last.until, second);
    EXPECT_EQ(last.unflushed, 2U);
    EXPECT_EQ(disk(), "aa..............");
    EXPECT_EQ(advance(), second);
    EXPECT_EQ(last.until, LogBoundary::kEnd);
    EXPECT_EQ(last.unflushed, 1U);
    EXPECT_EQ(disk(), "aabb.c..........");
    EXPECT_EQ(advance(), 0U);
    EXPECT_EQ(disk(), "aabb.c..........");
    EXPECT_EQ(replayer->sequence(), log.bytes.size());
    ASSERT_TRUE(replayer->complete());
    EXPECT_EQ(disk(), "aabb.cd.........");
    EXPECT_EQ(replayer->disk_size(), kSize);
    EXPECT_EQ(replayer->logical_block(), kBlock);
}

TEST_F(ReplayerTest, LaterWritesWin) {
    written(0, 4, 'a');
    written(1, 2, 'b');
    log.flushed();
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), "abba............");
}

TEST_F(ReplayerTest, FlushesThatOverlapEachKeepTheirWord) {
    written(0, 1, 'a');
    const auto one = log.flush();
    written(1, 1, 'b');
    const auto two = log.flush();
    log.complete(two);
    const auto second = log.bytes.size();
    log.complete(one);
    const auto first = log.bytes.size();
    start();
    EXPECT_EQ(advance(), second);
    EXPECT_EQ(disk(), "ab..............");
    EXPECT_EQ(advance(), first);
    EXPECT_EQ(disk(), "ab..............");
}

TEST_F(ReplayerTest, WhatFailedIsNotDurable) {
    log.complete(write(0, 1, 'a'), EIO);
    written(1, 1, 'b');
    log.complete(log.flush(), EIO);
    write(2, 1, 'c');  // never answered
    log.flush();
    start();
    EXPECT_EQ(advance(), 0U);
    EXPECT_EQ(disk(), "................");
    log.flushed();
    std::filesystem::remove(image);
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), ".b..............");
    EXPECT_EQ(last.unflushed, 2U);
}

TEST_F(ReplayerTest, FuaIsDurableAloneAndStays) {
    written(0, 4, 'a');
    log.complete(write(1, 2, 'b', true));
    const auto fua = log.bytes.size();
    const auto flushed = log.flushed();
    start();
    EXPECT_EQ(advance(), fua);
    EXPECT_EQ(last.kind, LogBoundary::Kind::fua);
    EXPECT_EQ(last.unflushed, 1U);
    EXPECT_EQ(disk(), ".bb.............");
    EXPECT_EQ(advance(), flushed);
    EXPECT_EQ(disk(), "abba............") << "what is older does not replace it";
}

TEST_F(ReplayerTest, DiscardsAndZeroes) {
    written(0, 8, 'a');
    log.complete(log.change(Kind::discard, kBlock, kBlock));
    log.complete(log.change(Kind::write_zeroes, 3 * kBlock, 2 * kBlock));
    written(4, 1, 'b');
    log.flushed();
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), "a.a.baaa........");
}

// ---- What is not -------------------------------------------------------------------------------

TEST_F(ReplayerTest, UnflushedWritesAreThereInAnyCombinationOfBlocks) {
    written(0, 4, 'a');
    written(1, 4, 'b');
    const auto fua = write(8, 1, 'f', true);
    log.complete(fua);
    write(6, 1, 'c');  // begins after the flush that follows, and before it is answered
    const auto flush = log.flush();
    write(7, 1, 'd');
    log.complete(flush);
    write(9, 1, 'e');  // after the boundary
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(last.unflushed, 4U);
    const auto seen = disks_with_unflushed(1000);
    std::set<std::string> starts;
    for (const std::string& one : seen) {
        for (std::size_t block = 0; block < 5; ++block) {
            const std::string allowed = block == 0 ? ".a" : block < 4 ? ".ab" : ".b";
            EXPECT_NE(allowed.find(one[block]), std::string::npos) << one;
        }
        EXPECT_EQ(one.substr(8), "f.......") << "what had not begun is not there";
        starts.insert(one.substr(0, 5));
    }
    EXPECT_TRUE(starts.contains(".....")) << "nothing";
    EXPECT_TRUE(starts.contains("abbbb")) << "everything";
    EXPECT_TRUE(starts.contains(".bbbb")) << "the later one only";
    EXPECT_TRUE(starts.contains("aaaa.")) << "the earlier one only";
    EXPECT_GT(starts.size(), 40U) << "and in pieces";
    EXPECT_TRUE(seen.contains("......cdf.......")) << "order between flushes is open";
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), "abbbb...f.......") << "it is taken away again";
    EXPECT_EQ(disks_with_unflushed(100).size(), 8U) << "c, d and e, or not";
    EXPECT_EQ(advance(), 0U);
    EXPECT_EQ(disk(), "abbbb...f.......");
}

TEST_F(ReplayerTest, BeforeTheFirstFlushNothingIsSure) {
    written(0, 1, 'a');
    written(1, 1, 'b');
    log.flushed();
    start();
    EXPECT_EQ(last.unflushed, 2U);
    EXPECT_EQ(disks_with_unflushed(100),
              (std::set<std::string>{"................", "a...............", ".b..............",
                                     "ab.............."}));
}

TEST_F(ReplayerTest, TheSameSeedIsTheSame) {
    for (char content = 'a'; content < 'i'; ++content) {
        written(static_cast<std::uint64_t>(content - 'a'), 2, content);
    }
    log.complete(write(12, 1, 'f', true));
    start();
    EXPECT_NE(advance(), 0U);
    std::vector<std::string> disks;
    for (const std::uint64_t seed : {1U, 2U, 3U, 1U, 2U, 3U}) {
        ASSERT_TRUE(replayer->add_unflushed(seed));
        disks.push_back(disk());
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(disks[i], disks[i + 3]);
    EXPECT_TRUE(disks[0] != disks[1] || disks[1] != disks[2]);
}

TEST_F(ReplayerTest, WhatFailedMayBeThereUntilItIsReplaced) {
    log.complete(write(0, 2, 'a'), EIO);
    write(4, 2, 'b');  // never answered
    written(0, 1, 'c');
    written(4, 2, 'd');
    log.flushed();
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disks_with_unflushed(50),
              (std::set<std::string>{"c...dd..........", "ca..dd.........."}));
}

// ---- A disk after a crash ----------------------------------------------------------------------

TEST_F(ReplayerTest, ADiskThatACrashExplains) {
    written(0, 4, 'a');
    log.flushed();
    written(0, 1, 'b');
    written(0, 1, 'c');
    write(1, 1, 'd');
    log.complete(log.change(Kind::write_zeroes, 2 * kBlock, kBlock));
    log.complete(log.change(Kind::discard, 3 * kBlock, kBlock));
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(advance(), 0U);
    const auto impossible = [&](const std::string& letters) {
        std::string content;
        for (const char letter : letters) content.append(kBlock, letter == '.' ? '\0' : letter);
        return replayer->find_impossible(place.file("disk", content)).value();
    };
    for (const char* possible :
         {"aaaa............", "bdaa............", "cd.x............", "aa.a............"}) {
        EXPECT_EQ(impossible(possible), std::nullopt) << possible;
    }
    EXPECT_EQ(impossible(".aaa............"), 0U);
    EXPECT_EQ(impossible("aca............."), kBlock);
    EXPECT_EQ(impossible("aaxa............"), 2 * kBlock);
    EXPECT_EQ(impossible("aaaa...........x"), 15 * kBlock);
    EXPECT_EQ(replayer->find_impossible(place.file("disk", "short")).error().code, EINVAL);
    std::string torn = std::string(4 * kBlock, 'a') + std::string(12 * kBlock, '\0');
    torn[100] = 'b';
    EXPECT_EQ(replayer->find_impossible(place.file("disk", torn)).value(), 0U);
}

// ---- Logs --------------------------------------------------------------------------------------

TEST_F(ReplayerTest, ATornTailIsToldAndTheRestCounts) {
    written(0, 1, 'a');
    log.flushed();
    const auto torn = write(1, 1, 'b');
    log.bytes.pop_back();
    start();
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(advance(), 0U);
    ASSERT_TRUE(replayer->complete());
    EXPECT_EQ(disk(), "a...............");
    ASSERT_EQ(replayer->gaps().size(), 1U);
    EXPECT_EQ(replayer->gaps()[0].offset, torn);
}

TEST_F(ReplayerTest, AnAnswerToWhatIsNotThereMeansDamage) {
    const auto place_of_write = write(0, 1, 'a');
    log.complete(place_of_write);
    log.bytes[place_of_write] ^= std::byte{1};
    open();
    const auto refused = replayer->advance();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EBADMSG);
    EXPECT_NE(refused.error().detail.find("it is damaged: byte 640 answers the request of byte 64, "
                                          "which is not there"),
              std::string::npos)
        << refused.error().detail;
    log.bytes[place_of_write] ^= std::byte{1};
    log.complete(place_of_write);
    std::filesystem::remove(image);
    open();
    EXPECT_EQ(replayer->advance().error().code, EBADMSG) << "answered once more";
}

TEST_F(ReplayerTest, WithoutAnImageItOnlyLooks) {
    written(0, 1, 'a');
    const auto sequence = log.flushed();
    replayer.emplace(LogReplayer::open({.log = log.path()}).value());
    EXPECT_EQ(advance(), 64U);
    EXPECT_EQ(advance(), sequence);
    EXPECT_EQ(advance(), 0U);
    EXPECT_FALSE(std::filesystem::exists(image));
}

TEST_F(ReplayerTest, OverWhatTheDiskHeld) {
    static_cast<void>(place.file("image", std::string(kSize, 'z')));
    written(1, 1, 'a');
    log.flushed();
    EXPECT_EQ(LogReplayer::open({.log = log.path(), .image = image}).error().code, EEXIST);
    replayer.emplace(LogReplayer::open({.log = log.path(), .image = image, .over = true}).value());
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), "zzzzzzzzzzzzzzzz");
    EXPECT_NE(advance(), 0U);
    EXPECT_EQ(disk(), "zazzzzzzzzzzzzzz");
}

TEST_F(ReplayerTest, NoImageIsMadeForWhatIsNoLog) {
    log.bytes.clear();
    EXPECT_EQ(LogReplayer::open({.log = log.path(), .image = image}).error().code, EINVAL);
    EXPECT_FALSE(std::filesystem::exists(image));
}

}  // namespace
}  // namespace ashlar
