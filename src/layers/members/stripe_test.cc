#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "backends/file/test_directory.h"
#include "conformance/backend_conformance.h"
#include "layers/members/test_member.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using test::TestMember;
using Members = std::vector<std::shared_ptr<TestMember>>;

constexpr std::uint32_t kBlock = 512;

std::shared_ptr<Backend> memory(std::uint64_t size, std::uint32_t block = kBlock) {
    return open_memory({.geometry = {.size = size, .logical_block_size = block}}).value();
}

Result<std::shared_ptr<Backend>> stripe_of_memory(const std::vector<std::uint64_t>& sizes,
                                                  std::uint32_t chunk,
                                                  std::uint32_t block = kBlock) {
    Backends members;
    for (const std::uint64_t size : sizes) members.push_back(memory(size, block));
    return open_stripe(members, {.chunk = chunk});
}

// ---- Conformance -------------------------------------------------------------------------------

TEST(Stripe, Conforms) {
    for (const std::size_t members : {2U, 3U, 7U, 64U}) {
        for (const std::uint32_t chunk : {4096U, 65536U}) {
            const std::vector<std::uint64_t> sizes(members, 256 * 1024);
            EXPECT_EQ(
                test::check_conformance(
                    {.open = [=] { return stripe_of_memory(sizes, chunk); }, .operations = 500}),
                "")
                << members << " members, chunk " << chunk;
        }
    }
}

TEST(Stripe, ConformsWithMembersThatDiffer) {
    EXPECT_EQ(test::check_conformance({.open =
                                           [] {
                                               return open_stripe(
                                                   {memory(300 * 1024, 4096), memory(1 << 20, 512),
                                                    memory(200 * 1024, 1024)},
                                                   {.chunk = 8192});
                                           }}),
              "");
}

TEST(Stripe, ConformsOverDelays) {
    const auto open = [] {
        Backends members;
        for (int i = 0; i < 3; ++i) {
            const Latency latency{.shape = Latency::Shape::exponential,
                                  .mean = std::chrono::microseconds(20)};
            members.push_back(open_delay(memory(128 * 1024), {.read = latency,
                                                              .write = latency,
                                                              .discard = latency,
                                                              .write_zeroes = latency})
                                  .value());
        }
        return open_stripe(members, {.chunk = 4096});
    };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 200}), "");
}

TEST(Stripe, ConformsOverStripes) {
    const auto open = [] {
        return open_stripe({stripe_of_memory({131072, 131072}, 16384).value(),
                            stripe_of_memory({131072, 131072, 131072}, 4096).value()},
                           {.chunk = 8192});
    };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 500}), "");
}

// Files pass data on, so the stripe does, and the suite uses registered buffers too.
TEST(Stripe, ConformsOverFiles) {
    const file::TestDirectory directory;
    int files = 0;
    const auto open = [&] {
        Backends members;
        for (int i = 0; i < 3; ++i) {
            const std::string path = directory / std::to_string(++files);
            members.push_back(
                open_file({.path = path, .create = true, .size = 100 * 1024}).value());
            EXPECT_EQ(members.back()->data_access(), DataAccess::routes);
        }
        return open_stripe(members, {.chunk = 4096});
    };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 500}), "");
}

// ---- Where the bytes lie -----------------------------------------------------------------------

struct Place {
    std::size_t member;
    std::uint64_t offset;
};

// The definition: chunk after chunk on one member after another.
Place place_of(std::uint64_t offset, std::uint64_t chunk, std::size_t members) {
    std::vector<std::uint64_t> filled(members, 0);
    std::size_t member = 0;
    while (offset >= chunk) {
        filled[member] += chunk;
        member = (member + 1) % members;
        offset -= chunk;
    }
    return {member, filled[member] + offset};
}

// All pieces in blocks, by the definition.
std::map<std::size_t, std::vector<std::uint64_t>> blocks_of(const Request& request,
                                                            const std::vector<Place>& places) {
    std::map<std::size_t, std::vector<std::uint64_t>> blocks;
    for (std::uint64_t at = request.offset; at < request.offset + request.length; at += kBlock) {
        const Place& place = places[at / kBlock];
        blocks[place.member].push_back(place.offset);
    }
    return blocks;
}

class StripeMap : public testing::TestWithParam<std::size_t> {
protected:
    StripeMap() {
        Backends all;
        for (std::size_t i = 0; i < count; ++i) {
            // What lies behind the last whole chunk is not used.
            members.push_back(
                std::make_shared<TestMember>(Geometry{.size = 3 * kChunk + (i + 1) * kBlock},
                                             Capabilities{.discard = true, .write_zeroes = true}));
            all.push_back(members.back());
        }
        disk = open_stripe(all, {.chunk = kChunk}).value();
        session = disk->open_session(ring.io()).value();
        for (std::uint64_t at = 0; at < disk->geometry().size; at += kBlock) {
            places.push_back(place_of(at, kChunk, count));
        }
    }
    void serve(const Request& request) {
        for (auto& member : members) member->requests.clear();
        EXPECT_TRUE(session->serve(ring.io(), request).result().ok());
    }

    static constexpr std::uint32_t kChunk = 4096;
    const std::size_t count = GetParam();
    test::RingRunner ring;
    Members members;
    std::shared_ptr<Backend> disk;
    std::unique_ptr<Session> session;
    std::vector<Place> places;  // of each block
    std::vector<std::byte> data = std::vector<std::byte>(count * 3 * kChunk);
};

TEST_P(StripeMap, HasTheSameWholeChunksOfEachMember) {
    EXPECT_EQ(disk->geometry().size, count * 3 * kChunk);
}

// Every range there is.
TEST_P(StripeMap, DataGoesWhereTheDefinitionSays) {
    const std::uint64_t size = disk->geometry().size;
    for (std::uint64_t offset = 0; offset < size; offset += kBlock) {
        for (std::uint64_t length = kBlock; length <= size - offset; length += kBlock) {
            const Request request{
                .offset = offset,
                .length = length,
                .op = Op::read,
                .buffer = Buffer::memory(data.data(), static_cast<std::uint32_t>(length))};
            serve(request);
            for (std::size_t i = 0; i < count; ++i) {
                std::uint64_t in_order = 0;
                for (const Request& part : members[i]->requests) {
                    ASSERT_GE(part.offset, in_order);
                    in_order = part.offset + part.length;
                    ASSERT_EQ(part.buffer.length(), part.length);
                    const auto from = static_cast<std::uint64_t>(part.buffer.data() - data.data());
                    for (std::uint64_t at = 0; at < part.length; at += kBlock) {
                        const Place& place = places[(offset + from + at) / kBlock];
                        ASSERT_EQ(place.member, i) << length << " at " << offset;
                        ASSERT_EQ(place.offset, part.offset + at) << length << " at " << offset;
                    }
                }
            }
            std::uint64_t all = 0;
            for (const auto& member : members) {
                for (const Request& part : member->requests) all += part.length;
            }
            ASSERT_EQ(all, length);
        }
    }
}

TEST_P(StripeMap, ARangeIsOneRangeOfEachMember) {
    const std::uint64_t size = disk->geometry().size;
    for (std::uint64_t offset = 0; offset < size; offset += kBlock) {
        for (std::uint64_t length = kBlock; length <= size - offset; length += kBlock) {
            const Request request{.offset = offset, .length = length, .op = Op::discard};
            serve(request);
            const auto blocks = blocks_of(request, places);
            for (std::size_t i = 0; i < count; ++i) {
                const auto& requests = members[i]->requests;
                ASSERT_EQ(requests.size(), blocks.contains(i) ? 1U : 0U);
                if (requests.empty()) continue;
                const auto& expected = blocks.at(i);
                ASSERT_EQ(requests[0].offset, std::ranges::min(expected));
                ASSERT_EQ(requests[0].length, expected.size() * kBlock);
                ASSERT_EQ(requests[0].offset + requests[0].length,
                          std::ranges::max(expected) + kBlock);
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Members, StripeMap, testing::Values(2, 3, 4));

TEST(Stripe, OffsetsMayBeLarge) {
    const std::uint64_t size = std::uint64_t{1} << 46;
    const auto null = [&] { return open_null({.geometry = {.size = size}}).value(); };
    const auto disk = open_stripe({null(), null(), null()}, {.chunk = 1U << 31}).value();
    EXPECT_EQ(disk->geometry().size, 3 * size);
    test::RingRunner ring;
    const auto session = disk->open_session(ring.io()).value();
    std::vector<std::byte> data(8192, std::byte{1});
    EXPECT_TRUE(session
                    ->serve(ring.io(), {.offset = 3 * size - 8192,
                                        .length = 8192,
                                        .op = Op::read,
                                        .buffer = Buffer::memory(data.data(), 8192)})
                    .result()
                    .ok());
    EXPECT_EQ(data, std::vector<std::byte>(8192));
    EXPECT_TRUE(
        session->serve(ring.io(), {.length = 3 * size, .op = Op::write_zeroes}).result().ok());
}

// ---- Geometry ----------------------------------------------------------------------------------

Geometry geometry_of(std::size_t count, const Geometry& geometry, std::uint32_t chunk) {
    Backends members;
    for (std::size_t i = 0; i < count; ++i) {
        members.push_back(open_null({.geometry = geometry}).value());
    }
    return open_stripe(members, {.chunk = chunk}).value()->geometry();
}

TEST(Stripe, PrefersWholeChunksAndRows) {
    const Geometry plain{.size = 1 << 30};
    EXPECT_EQ(geometry_of(4, plain, 65536).io_min, 65536U);
    EXPECT_EQ(geometry_of(4, plain, 65536).io_opt, 4U * 65536);
    EXPECT_EQ(geometry_of(3, plain, 65536).io_min, 65536U);
    EXPECT_EQ(geometry_of(3, plain, 65536).io_opt, 0U) << "a row is no power of two";
    EXPECT_EQ(geometry_of(4, plain, 1 << 28).io_opt, 0U) << "more than the kernel takes";
    const Geometry choosy{.size = 1 << 30, .io_min = 131072};
    EXPECT_EQ(geometry_of(4, choosy, 65536).io_min, 131072U);
    const Geometry large{.size = 1 << 30, .physical_block_size = 65536};
    EXPECT_EQ(geometry_of(2, large, 4096).io_min, 0U) << "below the physical block";
    EXPECT_EQ(geometry_of(2, large, 4096).io_opt, 0U);
}

TEST(Stripe, DiscardGranularityIsWhatMembersCanUse) {
    const auto granularity = [](std::uint32_t of_member, std::uint32_t chunk) {
        return geometry_of(3, {.size = 1 << 30, .discard_granularity = of_member}, chunk)
            .discard_granularity;
    };
    EXPECT_EQ(granularity(0, 65536), 4096U);
    EXPECT_EQ(granularity(512, 65536), 512U);
    EXPECT_EQ(granularity(65536, 65536), 65536U);
    EXPECT_EQ(granularity(1 << 20, 65536), 3U << 20) << "so that each member gets one of its own";
}

TEST(Stripe, NoMemberGetsMoreThanItsLimit) {
    constexpr std::uint32_t kChunk = 4096;
    const Capabilities can{.discard = true, .write_zeroes = true};
    test::RingRunner ring;
    for (const std::uint64_t most : {512U, 3584U, 4096U, 5120U, 8192U, 12800U}) {
        Members members;
        Backends all;
        for (int i = 0; i < 3; ++i) {
            members.push_back(std::make_shared<TestMember>(
                Geometry{.size = 8 * kChunk, .discard_max = most, .write_zeroes_max = most}, can));
            all.push_back(members.back());
        }
        const auto disk = open_stripe(all, {.chunk = kChunk}).value();
        const std::uint64_t length = disk->geometry().discard_max;
        EXPECT_EQ(length, disk->geometry().write_zeroes_max);
        EXPECT_EQ(length, most < kChunk ? most : most / kChunk * kChunk * 3);
        const auto session = disk->open_session(ring.io()).value();
        for (std::uint64_t at = 0; at + length <= disk->geometry().size; at += kBlock) {
            const Request request{.offset = at, .length = length, .op = Op::discard};
            ASSERT_TRUE(session->serve(ring.io(), request).result().ok());
        }
        for (const auto& member : members) {
            for (const Request& part : member->requests) ASSERT_LE(part.length, most);
        }
    }
}

TEST(Stripe, SaysWhatItIs) {
    const auto disk = stripe_of_memory({1 << 20, 1 << 20}, 65536).value();
    EXPECT_EQ(disk->name(), "stripe");
    EXPECT_TRUE(disk->capabilities().discard);
    EXPECT_TRUE(disk->capabilities().write_zeroes);
    EXPECT_FALSE(disk->capabilities().flush);
    EXPECT_EQ(disk->geometry().discard_max, 2U << 30) << "twice the default";
}

TEST(Stripe, RefusesWhatMakesNoStripe) {
    const auto refused = [](const std::vector<std::uint64_t>& sizes, std::uint32_t chunk) {
        const auto opened = stripe_of_memory(sizes, chunk);
        EXPECT_EQ(opened ? 0 : opened.error().code, EINVAL);
        return opened ? std::string() : opened.error().detail;
    };
    EXPECT_EQ(refused({1 << 20, 1 << 20}, 0),
              "chunk is 0; allowed are powers of two from 4096 to 2147483648");
    EXPECT_EQ(refused({1 << 20, 1 << 20}, 2048),
              "chunk is 2048; allowed are powers of two from 4096 to 2147483648");
    EXPECT_EQ(refused({1 << 20, 1 << 20}, 12288),
              "chunk is 12288; allowed are powers of two from 4096 to 2147483648");
    EXPECT_EQ(refused({1 << 20, 32768}, 65536),
              "member 1 has 32768 bytes; it must have at least one chunk, 65536");
    EXPECT_EQ(refused({1 << 20}, 65536), "1 members were given; allowed are 2 to 64");
    const auto huge = [] {
        return open_null({.geometry = {.size = std::uint64_t{1} << 62}}).value();
    };
    EXPECT_EQ(open_stripe({huge(), huge()}, {}).error().detail,
              "size is 9223372036854775808; it must be less than 2^63");
    EXPECT_EQ(open_stripe({huge(), huge(), huge(), huge()}, {}).error().detail,
              "the members are more than 2^64 bytes together");
}

}  // namespace
}  // namespace ashlar
