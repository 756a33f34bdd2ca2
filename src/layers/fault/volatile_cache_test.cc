#include "layers/fault/volatile_cache.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace ashlar::layers {
namespace {

constexpr std::uint64_t kEverything = ~std::uint64_t{0};

std::vector<std::byte> filled(std::size_t length, int value) {
    return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

TEST(VolatileCache, HoldsWhatWasWritten) {
    VolatileCache cache;
    auto into = filled(4, 0xee);
    auto found = cache.read(10, into);
    EXPECT_EQ(found.filled, 0U);
    EXPECT_EQ(found.missing, 4U);
    ASSERT_TRUE(cache.write(12, filled(2, 7)).ok());
    found = cache.read(10, into);
    EXPECT_EQ(found.filled, 0U);
    EXPECT_EQ(found.missing, 2U);
    found = cache.read(12, into);
    EXPECT_EQ(found.filled, 2U);
    EXPECT_EQ(found.missing, 2U);
    EXPECT_EQ(into[1], std::byte{7});
    EXPECT_EQ(into[2], std::byte{0xee});
}

TEST(VolatileCache, DataIsAlignedAsRequestsAre) {
    VolatileCache cache;
    ASSERT_TRUE(cache.write(512, filled(1024, 1)).ok());
    const auto snapshot = cache.snapshot();
    const auto address = reinterpret_cast<std::uintptr_t>(snapshot.extents.at(512).data.get());
    EXPECT_EQ(address % 4096, 0U);
}

TEST(VolatileCache, ZeroesKeepTheirFlag) {
    VolatileCache cache;
    cache.write_zeroes({0, 100}, true);
    ASSERT_TRUE(cache.write(50, filled(10, 1)).ok());
    const auto snapshot = cache.snapshot();
    ASSERT_EQ(snapshot.extents.size(), 3U);
    for (const std::uint64_t offset : {0U, 60U}) {
        EXPECT_EQ(snapshot.extents.at(offset).data, nullptr);
        EXPECT_TRUE(snapshot.extents.at(offset).no_unmap);
    }
    EXPECT_EQ(snapshot.extents.at(60).length, 40U);
}

TEST(VolatileCache, ASnapshotStaysAsItIs) {
    VolatileCache cache;
    ASSERT_TRUE(cache.write(0, filled(8, 1)).ok());
    const auto snapshot = cache.snapshot();
    ASSERT_TRUE(cache.write(0, filled(8, 2)).ok());
    EXPECT_EQ(*snapshot.extents.at(0).data, std::byte{1});
    cache.forget({0, kEverything}, snapshot.last_write);
    auto into = filled(8, 0);
    EXPECT_EQ(cache.read(0, into).filled, 8U) << "the newer one stays";
    EXPECT_EQ(into, filled(8, 2));
    cache.forget({0, kEverything}, cache.last_write());
    EXPECT_EQ(cache.read(0, into).filled, 0U);
}

TEST(VolatileCache, OneChangeAtATime) {
    VolatileCache cache;
    EXPECT_TRUE(cache.begin_change());
    EXPECT_FALSE(cache.begin_change());
    cache.end_change();
    EXPECT_TRUE(cache.begin_change());
}

// Against a model: for each byte what it holds and which write that was; 0: none.
TEST(VolatileCache, AgreesWithAModel) {
    constexpr std::uint64_t kSize = 64;
    std::mt19937 random(20'240'611);
    const auto pick = [&](std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random);
    };
    struct Byte {
        std::byte value{};
        std::uint64_t write = 0;
    };
    for (int round = 0; round < 200; ++round) {
        VolatileCache cache;
        std::vector<Byte> model(kSize);
        std::uint64_t writes = 0;
        for (int step = 0; step < 60; ++step) {
            const std::uint64_t offset = pick(kSize);
            const std::uint64_t length = 1 + pick(kSize - offset);
            const auto value = static_cast<std::byte>(pick(256));
            switch (pick(6)) {
                case 0: {
                    const std::uint64_t last = pick(writes + 1);
                    cache.forget({offset, length}, last);
                    for (std::uint64_t i = offset; i < offset + length; ++i) {
                        if (model[i].write <= last) model[i] = {};
                    }
                    break;
                }
                case 1:
                    cache.write_zeroes({offset, length}, false);
                    ++writes;
                    for (std::uint64_t i = offset; i < offset + length; ++i) {
                        model[i] = {std::byte{0}, writes};
                    }
                    break;
                default: {
                    std::vector<std::byte> data(length);
                    for (std::byte& byte : data) byte = static_cast<std::byte>(pick(256));
                    data.front() = value;
                    ASSERT_TRUE(cache.write(offset, data).ok());
                    ++writes;
                    for (std::uint64_t i = 0; i < length; ++i)
                        model[offset + i] = {data[i], writes};
                }
            }
            ASSERT_EQ(cache.last_write(), writes);
            // Read it all, as a session does, from a place of its own.
            for (std::uint64_t at = pick(kSize); at < kSize;) {
                std::vector<std::byte> into(kSize - at, std::byte{0xee});
                const auto found = cache.read(at, into);
                ASSERT_GT(found.filled + found.missing, 0U);
                for (std::uint64_t i = 0; i < found.filled; ++i) {
                    ASSERT_NE(model[at + i].write, 0U);
                    ASSERT_EQ(into[i], model[at + i].value);
                }
                for (std::uint64_t i = 0; i < found.missing; ++i) {
                    ASSERT_EQ(model[at + found.filled + i].write, 0U);
                    ASSERT_EQ(into[found.filled + i], std::byte{0xee});
                }
                at += found.filled + found.missing;
            }
        }
    }
}

}  // namespace
}  // namespace ashlar::layers
