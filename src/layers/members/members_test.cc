// What stripe and linear have in common, seen through both.
#include "layers/members/members.h"

#include <cerrno>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "layers/members/test_member.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using test::TestMember;

constexpr std::uint32_t kChunk = 4096;
constexpr std::uint64_t kSize = 64 * 1024;

// Some members, and the disk they make.
class MembersTest : public testing::Test {
protected:
    TestMember& add(const Geometry& geometry, const Capabilities& can = {}) {
        members.push_back(std::make_shared<TestMember>(geometry, can));
        return *members.back();
    }
    void add_plain(std::size_t count, const Capabilities& can = {}) {
        for (std::size_t i = 0; i < count; ++i) add({.size = kSize}, can);
    }
    Backends all() { return {members.begin(), members.end()}; }
    std::shared_ptr<Backend> stripe() { return open_stripe(all(), {.chunk = kChunk}).value(); }
    std::shared_ptr<Backend> linear() { return open_linear(all()).value(); }
    // Opens a session of the disk.
    void serve_from(std::shared_ptr<Backend> disk) {
        backend = std::move(disk);
        session = backend->open_session(ring.io()).value();
    }
    Task<> start(const Request& request) { return session->serve(ring.io(), request); }
    IoResult serve(const Request& request) {
        const Task<> task = start(request);
        EXPECT_TRUE(task.done());
        return task.result();
    }
    void park_all() {
        for (auto& member : members) member->parks = true;
    }
    std::size_t parked() const {
        std::size_t count = 0;
        for (const auto& member : members) count += member->parked.size();
        return count;
    }

    test::RingRunner ring;
    std::vector<std::shared_ptr<TestMember>> members;
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::vector<std::byte> data = std::vector<std::byte>(1 << 20);
};

Request write_of(std::uint64_t offset, std::uint64_t length, std::byte* data, bool fua = false) {
    return {.offset = offset,
            .length = length,
            .op = Op::write,
            .fua = fua,
            .buffer = Buffer::memory(data, static_cast<std::uint32_t>(length))};
}

// ---- Geometry ----------------------------------------------------------------------------------

TEST_F(MembersTest, TheStricterGeometryHolds) {
    add({.size = kSize,
         .logical_block_size = 512,
         .physical_block_size = 8192,
         .io_min = 8192,
         .discard_granularity = 512,
         .discard_max = 1 << 20,
         .dma_alignment = 512,
         .segment_max = 65536,
         .segments_max = 0,
         .segment_boundary = 1 << 20});
    add({.size = kSize,
         .logical_block_size = 1024,
         .physical_block_size = 4096,
         .io_opt = 32768,
         .discard_granularity = 16384,
         .write_zeroes_max = 1 << 16,
         .rotational = true,
         .dma_alignment = 4,
         .segment_max = 0,
         .segments_max = 7,
         .segment_boundary = 1 << 16});
    const Geometry joined = linear()->geometry();
    EXPECT_EQ(joined.size, 2 * kSize);
    EXPECT_EQ(joined.logical_block_size, 1024U);
    EXPECT_EQ(joined.physical_block_size, 8192U);
    EXPECT_EQ(joined.io_min, 8192U);
    EXPECT_EQ(joined.io_opt, 32768U);
    EXPECT_EQ(joined.chunk, 0U);
    EXPECT_EQ(joined.discard_granularity, 16384U);
    EXPECT_EQ(joined.discard_max, 1U << 20);
    EXPECT_EQ(joined.write_zeroes_max, 1U << 16);
    EXPECT_TRUE(joined.rotational);
    EXPECT_EQ(joined.dma_alignment, 512U);
    EXPECT_EQ(joined.segment_max, 65536U);
    EXPECT_EQ(joined.segments_max, 7U);
    EXPECT_EQ(joined.segment_boundary, 1U << 16);
}

TEST_F(MembersTest, DefaultsStayWhatTheyMean) {
    add_plain(2);
    const Geometry joined = linear()->geometry();
    EXPECT_EQ(joined.logical_block_size, 512U);
    EXPECT_EQ(joined.physical_block_size, 4096U);
    EXPECT_EQ(joined.io_min, 0U);
    EXPECT_EQ(joined.io_opt, 0U);
    EXPECT_EQ(joined.discard_granularity, 4096U);
    EXPECT_EQ(joined.discard_max, 1U << 30);
    EXPECT_EQ(joined.write_zeroes_max, 1U << 30);
    EXPECT_FALSE(joined.rotational);
    EXPECT_EQ(joined.dma_alignment, 0U);
    EXPECT_EQ(joined.segment_max, 0U);
    EXPECT_EQ(joined.segments_max, 0U);
    EXPECT_EQ(joined.segment_boundary, 0U);
}

TEST_F(MembersTest, ASmallPhysicalBlockStaysSmall) {
    add({.size = kSize, .physical_block_size = 512});
    add({.size = kSize, .physical_block_size = 1024});
    EXPECT_EQ(linear()->geometry().physical_block_size, 1024U);
}

TEST_F(MembersTest, APreferenceBelowThePhysicalBlockIsNone) {
    add({.size = kSize, .physical_block_size = 512, .io_min = 1024, .io_opt = 2048});
    add({.size = kSize, .physical_block_size = 4096});
    EXPECT_EQ(linear()->geometry().io_min, 0U);
    EXPECT_EQ(linear()->geometry().io_opt, 0U);
}

TEST_F(MembersTest, BlocksAreAsLargeAsTheAlignmentOfData) {
    add({.size = kSize, .physical_block_size = 512, .dma_alignment = 2048});
    add({.size = kSize, .physical_block_size = 512});
    EXPECT_EQ(linear()->geometry().logical_block_size, 2048U);
    EXPECT_EQ(linear()->geometry().physical_block_size, 2048U);
}

TEST_F(MembersTest, ALimitBelowABlockTakesTheOperationAway) {
    const Capabilities can{.discard = true, .write_zeroes = true};
    add({.size = kSize, .discard_max = 512}, can);
    add({.size = kSize, .logical_block_size = 4096}, can);
    EXPECT_FALSE(linear()->capabilities().discard);
    EXPECT_TRUE(linear()->capabilities().write_zeroes);
}

TEST_F(MembersTest, GeometriesMakeADisk) {
    for (const std::uint32_t block : {512U, 4096U}) {
        for (const std::uint32_t physical : {4096U, 65536U, 1U << 28}) {
            for (const std::uint32_t granularity : {0U, 4096U, 12288U, 0xfffff000U}) {
                for (const std::uint64_t most : {0UL, 4096UL, ~0xfffUL}) {
                    members.clear();
                    add({.size = 3 * kSize - block,
                         .logical_block_size = block,
                         .physical_block_size = physical,
                         .io_min = physical,
                         .io_opt = physical,
                         .discard_granularity = granularity,
                         .discard_max = most,
                         .write_zeroes_max = most});
                    add_plain(2);
                    EXPECT_TRUE(check_geometry(stripe()->geometry()));
                    EXPECT_TRUE(check_geometry(linear()->geometry()));
                }
            }
        }
    }
}

// ---- Capabilities ------------------------------------------------------------------------------

TEST_F(MembersTest, AnyCacheNeedsFlushes) {
    add_plain(2);
    EXPECT_FALSE(stripe()->capabilities().flush);
    EXPECT_FALSE(stripe()->capabilities().fua) << "without a cache there is nothing to force";
    add_plain(1, {.flush = true});
    EXPECT_TRUE(stripe()->capabilities().flush);
    EXPECT_FALSE(stripe()->capabilities().fua);
}

TEST_F(MembersTest, FuaIsOfferedWhereEveryCacheHasIt) {
    add_plain(2, {.flush = true, .fua = true});
    add_plain(1);
    EXPECT_TRUE(stripe()->capabilities().fua);
    add_plain(1, {.flush = true});
    EXPECT_FALSE(stripe()->capabilities().fua);
}

TEST_F(MembersTest, DiscardAndZeroesNeedAllMembersReadOnlyNeedsOne) {
    add_plain(2, {.discard = true, .write_zeroes = true});
    EXPECT_TRUE(linear()->capabilities().discard);
    EXPECT_TRUE(linear()->capabilities().write_zeroes);
    EXPECT_FALSE(linear()->capabilities().read_only);
    add_plain(1, {.discard = true});
    EXPECT_TRUE(linear()->capabilities().discard);
    EXPECT_FALSE(linear()->capabilities().write_zeroes);
    add_plain(1, {.read_only = true});
    EXPECT_FALSE(linear()->capabilities().discard);
    EXPECT_TRUE(linear()->capabilities().read_only);
}

TEST_F(MembersTest, RoutesDataIfAllMembersDo) {
    add_plain(2);
    EXPECT_EQ(stripe()->data_access(), DataAccess::sees);
    members[0]->access = DataAccess::routes;
    EXPECT_EQ(stripe()->data_access(), DataAccess::sees);
    members[1]->access = DataAccess::routes;
    EXPECT_EQ(stripe()->data_access(), DataAccess::routes);
    members[1]->access = DataAccess::holds;
    EXPECT_EQ(stripe()->data_access(), DataAccess::sees);
}

TEST_F(MembersTest, ACountOfAMemberThatIsShortIsNoSuccess) {
    add_plain(2);
    serve_from(stripe());
    const Request write = write_of(0, 2 * kChunk, data.data());
    EXPECT_TRUE(serve(write).ok());
    members[1]->answer = [](const Request&) { return IoResult::bytes(512); };
    EXPECT_EQ(serve(write).error(), EIO);
}

TEST_F(MembersTest, CountsAreAddedUp) {
    add_plain(2);
    members[0]->counted = {{.name = "syncs", .value = 3, .what = "s"}};
    members[1]->counted = {{.name = "syncs", .value = 4, .what = "s"},
                           {.name = "reconnects", .value = 1, .what = "r"}};
    const auto counters = stripe()->counters();
    ASSERT_EQ(counters.size(), 2U);
    EXPECT_EQ(counters[0].name, "syncs");
    EXPECT_EQ(counters[0].value, 7U);
    EXPECT_EQ(counters[1].name, "reconnects");
    EXPECT_EQ(counters[1].value, 1U);
}

TEST_F(MembersTest, CopiesWritesIfAnyMemberWantsThat) {
    add_plain(2);
    EXPECT_EQ(stripe()->copied_write_max(), 0U);
    members[1]->copied = 4096;
    EXPECT_EQ(stripe()->copied_write_max(), 4096U);
    EXPECT_EQ(linear()->copied_write_max(), 4096U);
}

TEST_F(MembersTest, RefusesWhatItDoesNotAdvertise) {
    add_plain(2);
    serve_from(stripe());
    EXPECT_EQ(serve({.op = Op::flush}).error(), EOPNOTSUPP);
    EXPECT_EQ(serve({.length = 512, .op = Op::discard}).error(), EOPNOTSUPP);
    EXPECT_EQ(serve({.length = 512, .op = Op::write_zeroes}).error(), EOPNOTSUPP);
    EXPECT_EQ(serve({.length = 512, .op = Op::zone_open}).error(), EOPNOTSUPP);
    members[1]->can.read_only = true;
    serve_from(stripe());
    EXPECT_EQ(serve(write_of(0, 512, data.data())).error(), EROFS);
    EXPECT_EQ(serve({.length = 512, .op = Op::discard}).error(), EROFS);
    EXPECT_EQ(serve({.length = 512, .op = Op::write_zeroes}).error(), EROFS);
    EXPECT_TRUE(members[0]->requests.empty());
    EXPECT_TRUE(members[1]->requests.empty());
}

// ---- Requests ----------------------------------------------------------------------------------

TEST_F(MembersTest, FlushesAllCachesAtOnceHoweverManyThereAre) {
    for (int i = 0; i < 21; ++i) add_plain(1, {.flush = i % 4 != 3});
    serve_from(stripe());
    park_all();
    const Request flush{.op = Op::flush};
    const Task<> task = start(flush);
    EXPECT_EQ(parked(), 16U);
    for (std::size_t i = 0; i < members.size(); ++i) {
        EXPECT_EQ(members[i]->requests.size(), i % 4 != 3 ? 1U : 0U) << i;
    }
    for (std::size_t left = members.size(); left-- > 0;) {
        EXPECT_FALSE(task.done());
        if (members[left]->can.flush) members[left]->resume(0);
    }
    ASSERT_TRUE(task.done());
    EXPECT_TRUE(task.result().ok());
}

TEST_F(MembersTest, DiscardsOnAllMembersAtOnceHoweverManyThereAre) {
    add_plain(19, {.discard = true});
    serve_from(stripe());
    park_all();
    const Request discard{.length = 19 * 2 * kChunk, .op = Op::discard};
    const Task<> task = start(discard);
    EXPECT_EQ(parked(), 19U);
    for (const auto& member : members) {
        EXPECT_EQ(member->requests.at(0).offset, 0U);
        EXPECT_EQ(member->requests.at(0).length, 2U * kChunk);
        member->resume(0);
    }
    EXPECT_TRUE(task.done());
}

TEST_F(MembersTest, FuaGoesToTheMembersThatHaveIt) {
    add_plain(1, {.flush = true, .fua = true});
    add_plain(1);
    serve_from(stripe());
    EXPECT_TRUE(serve(write_of(0, 2 * kChunk, data.data(), true)).ok());
    EXPECT_TRUE(serve(write_of(0, kChunk, data.data(), true)).ok());
    EXPECT_TRUE(serve(write_of(kChunk, kChunk, data.data(), true)).ok());
    EXPECT_TRUE(serve(write_of(0, kChunk, data.data())).ok());
    ASSERT_EQ(members[0]->requests.size(), 3U);
    EXPECT_TRUE(members[0]->requests[0].fua);
    EXPECT_TRUE(members[0]->requests[1].fua);
    EXPECT_FALSE(members[0]->requests[2].fua);
    ASSERT_EQ(members[1]->requests.size(), 2U);
    EXPECT_FALSE(members[1]->requests[0].fua);
    EXPECT_FALSE(members[1]->requests[1].fua);
}

TEST_F(MembersTest, FuaThatTheEngineEmulatesGoesToNobody) {
    add_plain(1, {.flush = true, .fua = true});
    add_plain(1, {.flush = true});
    serve_from(stripe());
    EXPECT_TRUE(serve(write_of(0, 2 * kChunk, data.data(), true)).ok());
    EXPECT_FALSE(members[0]->requests.at(0).fua);
    EXPECT_FALSE(members[1]->requests.at(0).fua);
}

TEST_F(MembersTest, OtherFieldsOfARequestStay) {
    add_plain(2, {.write_zeroes = true});
    serve_from(stripe());
    EXPECT_TRUE(serve({.offset = kChunk,
                       .length = 512,
                       .op = Op::write_zeroes,
                       .no_unmap = true,
                       .queue = 3,
                       .tag = 9})
                    .ok());
    const Request& got = members[1]->requests.at(0);
    EXPECT_EQ(got.op, Op::write_zeroes);
    EXPECT_EQ(got.offset, 0U);
    EXPECT_EQ(got.length, 512U);
    EXPECT_TRUE(got.no_unmap);
    EXPECT_EQ(got.queue, 3);
    EXPECT_EQ(got.tag, 9);
}

TEST_F(MembersTest, ARequestThatAMemberCanTakeAsItIsGoesOnWithoutAFrame) {
    add_plain(2);
    serve_from(linear());
    const Request request = write_of(512, 1024, data.data());
    members[0]->parks = true;
    const Task<> task = start(request);
    ASSERT_EQ(members[0]->parked.size(), 1U);
    EXPECT_EQ(members[0]->parked[0].request, &request);
    members[0]->resume(0);
    EXPECT_TRUE(task.done());
}

TEST_F(MembersTest, RegisteredBuffersAreDividedAsMemoryIs) {
    add_plain(2);
    serve_from(stripe());
    const Request request{.offset = kChunk - 512,
                          .length = 1024,
                          .op = Op::read,
                          .buffer = Buffer::registered(5, 4096, 1024)};
    EXPECT_TRUE(serve(request).ok());
    for (std::uint32_t i = 0; i < 2; ++i) {
        const Buffer buffer = members[i]->requests.at(0).buffer;
        EXPECT_FALSE(buffer.is_memory());
        EXPECT_EQ(buffer.index(), 5);
        EXPECT_EQ(buffer.address(), 4096U + i * 512);
        EXPECT_EQ(buffer.length(), 512U);
    }
}

TEST_F(MembersTest, NoPieceCrossesAMultipleOfItsMembersChunk) {
    add({.size = kSize, .chunk = 1536});
    add_plain(1);
    serve_from(linear());
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i % 251);
    EXPECT_TRUE(serve(write_of(512, 8192, data.data())).ok());
    std::uint64_t at = 512;
    for (const Request& request : members[0]->requests) {
        EXPECT_EQ(request.offset, at);
        EXPECT_LE(request.offset % 1536 + request.length, 1536U);
        at += request.length;
    }
    EXPECT_EQ(at, 512U + 8192);
    EXPECT_TRUE(std::equal(data.begin(), data.begin() + 8192, members[0]->content.begin() + 512));
}

TEST_F(MembersTest, AtMostEightPiecesAreInFlight) {
    add_plain(2);
    serve_from(stripe());
    park_all();
    const Request request = write_of(0, 20 * kChunk, data.data());
    const Task<> task = start(request);
    for (const std::size_t wave : {8U, 8U, 4U}) {
        ASSERT_EQ(parked(), wave);
        for (std::size_t i = 0; i < wave; ++i) {
            EXPECT_FALSE(task.done());
            // The last one first: whatever the order of their ends, all are waited for.
            TestMember& member = *members[i % 2];
            member.resume(member.parked.size() - 1);
        }
    }
    ASSERT_TRUE(task.done());
    EXPECT_TRUE(task.result().ok());
    EXPECT_EQ(members[0]->requests.size() + members[1]->requests.size(), 20U);
}

TEST_F(MembersTest, FramesDoNotPileUpFromWaveToWave) {
    add_plain(2);
    serve_from(stripe());
    park_all();
    const Request request = write_of(0, 24 * kChunk, data.data());
    std::optional<Task<>> task(start(request));
    const std::size_t first = ring.io().arena().used();
    while (!task->done()) {
        EXPECT_LE(ring.io().arena().used(), first);
        for (auto& member : members) {
            if (!member->parked.empty()) member->resume(0);
        }
    }
    task.reset();
    EXPECT_EQ(ring.io().arena().used(), 0U);
}

TEST_F(MembersTest, AnErrorOfOneMemberIsTheRequestsOnceAllHaveEnded) {
    add_plain(3);
    serve_from(stripe());
    park_all();
    members[1]->answer = [](const Request&) { return IoResult::from_errno(ENOSPC); };
    members[2]->answer = [](const Request&) { return IoResult::from_errno(EIO); };
    const Request request = write_of(0, 12 * kChunk, data.data());
    const Task<> task = start(request);
    while (parked() > 0) {
        EXPECT_FALSE(task.done());
        for (auto& member : members) {
            if (!member->parked.empty()) member->resume(0);
        }
    }
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().error(), ENOSPC) << "the first in the order of the disk";
    std::size_t pieces = 0;
    for (const auto& member : members) pieces += member->requests.size();
    EXPECT_EQ(pieces, 8U) << "nothing is begun after an error";
}

TEST_F(MembersTest, AnErrorOfOneFlushOrDiscardIsTheRequests) {
    add_plain(12, {.flush = true, .discard = true});
    serve_from(stripe());
    for (const std::size_t broken : {0U, 5U, 11U}) {
        members[broken]->answer = [](const Request&) { return IoResult::from_errno(EREMOTEIO); };
        EXPECT_EQ(serve({.op = Op::flush}).error(), EREMOTEIO);
        EXPECT_EQ(serve({.length = kSize, .op = Op::discard}).error(), EREMOTEIO);
        members[broken]->answer = nullptr;
    }
    EXPECT_TRUE(serve({.op = Op::flush}).ok());
    for (const auto& member : members) EXPECT_EQ(member->requests.size(), 7U);
}

TEST_F(MembersTest, RequestsOverlap) {
    add_plain(2);
    serve_from(stripe());
    park_all();
    std::vector<Request> requests;
    for (std::uint64_t i = 0; i < 8; ++i) {
        requests.push_back(write_of(i * kChunk, 2 * kChunk, data.data()));
    }
    std::vector<Task<>> tasks;
    for (const Request& request : requests) tasks.push_back(start(request));
    EXPECT_EQ(parked(), 16U);
    for (auto& member : members) {
        while (!member->parked.empty()) member->resume(member->parked.size() - 1);
    }
    for (const Task<>& task : tasks) EXPECT_TRUE(task.done());
}

// ---- Opening and closing -----------------------------------------------------------------------

TEST_F(MembersTest, AMemberThatDoesNotOpenIsToldOf) {
    add_plain(2);
    members[1]->open_error = EACCES;
    auto opened = stripe()->open_session(ring.io());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, EACCES);
}

TEST_F(MembersTest, ClosesTheSessionsOfAllMembers) {
    add_plain(3);
    serve_from(linear());
    session->close();
    for (const auto& member : members) EXPECT_EQ(member->closed, 1);
}

TEST_F(MembersTest, RefusesMembersThatMakeNoDisk) {
    const auto refused = [&](const Backends& some) {
        const auto opened = open_linear(some);
        EXPECT_EQ(opened ? 0 : opened.error().code, EINVAL);
        return opened ? std::string() : opened.error().detail;
    };
    add_plain(65);
    EXPECT_EQ(refused({}), "0 members were given; allowed are 2 to 64");
    EXPECT_EQ(refused({members[0]}), "1 members were given; allowed are 2 to 64");
    EXPECT_EQ(refused(all()), "65 members were given; allowed are 2 to 64");
    EXPECT_EQ(refused({members[0], members[1], members[0]}),
              "members 0 and 2 are the same one; each may be there once");
    members.clear();
    add({.size = kSize});
    add({.size = kSize, .logical_block_size = 100});
    EXPECT_EQ(refused(all()),
              "member 1: logical block size is 100; allowed are 512, 1024, 2048 and 4096");
    EXPECT_EQ(open_stripe(all(), {}).error().message().substr(0, 23), "open stripe: member 1: ");
}

}  // namespace
}  // namespace ashlar
