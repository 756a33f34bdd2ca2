#include "layers/metadata/stripes.h"

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace ashlar::layers {
namespace {

constexpr std::uint64_t kAll = Stripes::kStripes * Stripes::kRegion;

class StripesTest : public testing::Test {
protected:
    using Held = std::unique_ptr<Stripes::Held>;
    Held wish(Stripes::Use use, std::uint64_t offset, std::uint64_t length = 512) {
        return std::make_unique<Stripes::Held>(*stripes, Range{offset, length}, use);
    }
    // Null: others have them.
    Held take(Stripes::Use use, std::uint64_t offset, std::uint64_t length = 512) {
        Held held = wish(use, offset, length);
        return held->take() ? std::move(held) : nullptr;
    }
    static constexpr auto kRead = Stripes::Use::read;
    static constexpr auto kChange = Stripes::Use::change;
    const std::unique_ptr<Stripes> stripes = std::make_unique<Stripes>();
};

TEST_F(StripesTest, AreReadByManyAndChangedByOne) {
    {
        const Held one = take(kRead, 0);
        const Held two = take(kRead, 0);
        EXPECT_NE(two, nullptr);
        EXPECT_EQ(take(kChange, 512), nullptr) << "the same region";
        EXPECT_NE(take(kChange, Stripes::kRegion), nullptr);
    }
    const Held change = take(kChange, 0);
    ASSERT_NE(change, nullptr);
    EXPECT_EQ(take(kRead, 0), nullptr);
    EXPECT_EQ(take(kChange, 0), nullptr);
    EXPECT_EQ(take(kRead, kAll), nullptr) << "it shares the stripe";
}

TEST_F(StripesTest, AreGivenBackOnEveryWay) {
    {
        const Held held = take(kChange, 8192);
        const Held waiting = wish(kChange, 0, 16384);
        EXPECT_FALSE(waiting->take());
        EXPECT_EQ(take(kRead, 0), nullptr) << "the first two are its own";
        EXPECT_NE(take(kRead, 12288), nullptr) << "what comes behind is not";
    }
    EXPECT_NE(take(kChange, 0, kAll), nullptr);
    EXPECT_NE(take(kChange, 0, kAll), nullptr);
}

TEST_F(StripesTest, WhoeverWaitsIsNextAndGetsOnWhereItStopped) {
    Held held = take(kRead, 4096);
    const Held waiting = wish(kChange, 0, 8192);
    EXPECT_FALSE(waiting->take());
    EXPECT_EQ(take(kRead, 4096), nullptr) << "a reader may not overtake it";
    EXPECT_FALSE(waiting->take());
    held.reset();
    EXPECT_EQ(take(kRead, 4096), nullptr) << "also when nobody has it";
    EXPECT_TRUE(waiting->take());
}

TEST_F(StripesTest, AClaimGoesWithWhoeverGivesUp) {
    const Held held = take(kRead, 0);
    EXPECT_EQ(take(kChange, 0), nullptr);  // claimed, and gone
    EXPECT_NE(take(kRead, 0), nullptr);
}

TEST_F(StripesTest, ALongRangeTakesEachOnce) {
    EXPECT_NE(take(kChange, 512, 3 * kAll), nullptr);
    // From the last stripe on to the first.
    const Held held = take(kChange, kAll - 4096, 8192);
    ASSERT_NE(held, nullptr);
    EXPECT_EQ(take(kRead, 0), nullptr);
    EXPECT_EQ(take(kRead, kAll - 512), nullptr);
    EXPECT_NE(take(kRead, 4096), nullptr);
    EXPECT_NE(take(kRead, kAll - 4608), nullptr);
}

TEST_F(StripesTest, ManyThreadsGetOn) {
    struct Block {
        int first = 0;
        int second = 0;
    };
    std::vector<Block> blocks(4);  // guarded by the stripes
    std::atomic<int> torn{0};
    const auto work = [&](unsigned seed) {
        for (unsigned i = 0; i < 3000; ++i) {
            seed = seed * 1664525 + 1013904223;
            const unsigned from = (seed >> 8) % 4;
            const unsigned count = (seed >> 16) % (4 - from) + 1;
            const bool reads = (seed >> 24) % 2 == 0;
            Stripes::Held held(*stripes, {from * 4096U, count * 4096U}, reads ? kRead : kChange);
            while (!held.take()) std::this_thread::yield();
            for (unsigned at = from; at < from + count; ++at) {
                if (!reads) {
                    ++blocks[at].first;
                    ++blocks[at].second;
                } else if (blocks[at].first != blocks[at].second) {
                    ++torn;
                }
            }
        }
    };
    {
        std::vector<std::jthread> threads;
        for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
    }
    EXPECT_EQ(torn.load(), 0);
    EXPECT_NE(take(kChange, 0, kAll), nullptr) << "all are given back";
}

}  // namespace
}  // namespace ashlar::layers
