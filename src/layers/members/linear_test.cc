#include <algorithm>
#include <cerrno>
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

constexpr std::uint32_t kBlock = 512;

std::shared_ptr<Backend> memory(std::uint64_t size, std::uint32_t block = kBlock) {
    return open_memory({.geometry = {.size = size, .logical_block_size = block}}).value();
}

TEST(Linear, Conforms) {
    const auto open = [] {
        return open_linear({memory(100 * 1024), memory(kBlock), memory(500 * 1024 + kBlock)});
    };
    EXPECT_EQ(test::check_conformance({.open = open}), "");
}

TEST(Linear, ConformsWithMembersThatDiffer) {
    const auto open = [] {
        return open_linear(
            {memory(100 * 1024 + 512, 512), memory(90 * 1024, 1024), memory(256 * 1024, 4096)});
    };
    EXPECT_EQ(test::check_conformance({.open = open}), "");
}

TEST(Linear, ConformsWithManySmallMembers) {
    const auto open = [] {
        Backends members;
        for (std::uint64_t i = 0; i < 64; ++i) members.push_back(memory((1 + i % 7) * kBlock));
        return open_linear(members);
    };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 500}), "");
}

TEST(Linear, ConformsOverStripesAndDelays) {
    const auto open = [] {
        const Latency latency{.mean = std::chrono::microseconds(10)};
        return open_linear(
            {open_stripe({memory(65536), memory(65536), memory(65536)}, {.chunk = 4096}).value(),
             open_delay(memory(100 * 1024), {.read = latency, .write = latency}).value()});
    };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 300}), "");
}

TEST(Linear, ConformsOverFiles) {
    const file::TestDirectory directory;
    int files = 0;
    const auto open_part = [&](std::uint64_t size) {
        const std::string path = directory / std::to_string(++files);
        return open_file({.path = path, .create = true, .size = size}).value();
    };
    const auto open = [&] { return open_linear({open_part(70 * 1024), open_part(90 * 1024)}); };
    EXPECT_EQ(test::check_conformance({.open = open, .operations = 500}), "");
}

class LinearMap : public testing::Test {
protected:
    LinearMap() {
        for (const std::uint64_t blocks : {5U, 1U, 8U, 3U}) {
            members.push_back(
                std::make_shared<TestMember>(Geometry{.size = blocks * kBlock},
                                             Capabilities{.discard = true, .write_zeroes = true}));
        }
        disk = open_linear({members.begin(), members.end()}).value();
        session = disk->open_session(ring.io()).value();
        for (std::size_t i = 0; i < members.size(); ++i) {
            for (std::uint64_t at = 0; at < members[i]->geometry().size; at += kBlock) {
                places.push_back({i, at});
            }
        }
    }
    struct Place {
        std::size_t member;
        std::uint64_t offset;
    };
    // Every range there is, as requests of this kind.
    void check_all(Op op) {
        for (std::size_t first = 0; first < places.size(); ++first) {
            for (std::size_t end = first + 1; end <= places.size(); ++end) check(op, first, end);
        }
    }
    void check(Op op, std::size_t first, std::size_t end) {
        for (auto& member : members) member->requests.clear();
        Request request{.offset = first * kBlock, .length = (end - first) * kBlock, .op = op};
        if (op == Op::write) {
            request.buffer =
                Buffer::memory(data.data(), static_cast<std::uint32_t>(request.length));
        }
        ASSERT_TRUE(session->serve(ring.io(), request).result().ok());
        std::size_t blocks = 0;
        for (std::size_t i = 0; i < members.size(); ++i) {
            ASSERT_LE(members[i]->requests.size(), 1U);
            if (members[i]->requests.empty()) continue;
            const Request& part = members[i]->requests[0];
            for (std::uint64_t at = 0; at < part.length; at += kBlock, ++blocks) {
                ASSERT_EQ(places[first + blocks].member, i);
                ASSERT_EQ(places[first + blocks].offset, part.offset + at);
                if (op != Op::write) continue;
                ASSERT_EQ(part.buffer.data() + at, data.data() + blocks * kBlock);
            }
        }
        ASSERT_EQ(blocks, end - first);
    }

    test::RingRunner ring;
    std::vector<std::shared_ptr<TestMember>> members;
    std::shared_ptr<Backend> disk;
    std::unique_ptr<Session> session;
    std::vector<Place> places;  // of each block of the disk
    std::vector<std::byte> data = std::vector<std::byte>(64 * kBlock);
};

TEST_F(LinearMap, DataGoesToOneMemberAfterTheOther) { check_all(Op::write); }
TEST_F(LinearMap, SoDoRanges) { check_all(Op::discard); }

TEST_F(LinearMap, MembersWorkAtTheSameTime) {
    for (auto& member : members) member->parks = true;
    const Request request{.length = disk->geometry().size,
                          .op = Op::write,
                          .buffer = Buffer::memory(data.data(), 17 * kBlock)};
    const Task<> task = session->serve(ring.io(), request);
    for (auto& member : members) ASSERT_EQ(member->parked.size(), 1U);
    for (const std::size_t next : {2U, 0U, 3U, 1U}) {
        EXPECT_FALSE(task.done());
        members[next]->resume(0);
    }
    EXPECT_TRUE(task.done());
}

TEST(Linear, SaysWhatItIs) {
    const auto disk = open_linear({memory(1 << 20), memory(3 << 20)}).value();
    EXPECT_EQ(disk->name(), "linear");
    EXPECT_EQ(disk->geometry().size, 4U << 20);
}

TEST(Linear, MembersEndAtAWholeBlockOfTheDisk) {
    const auto disk = open_linear({memory(10 * 512), memory(8192, 4096)}).value();
    EXPECT_EQ(disk->geometry().size, 4096U + 8192);
    EXPECT_EQ(disk->geometry().logical_block_size, 4096U);
}

TEST(Linear, RefusesWhatMakesNoDisk) {
    EXPECT_EQ(open_linear({memory(512), memory(8192, 4096)}).error().message(),
              "open linear: member 0 has 512 bytes; it must have at least one logical block of the "
              "disk, 4096 (EINVAL: Invalid argument)");
    const auto huge = [] {
        return open_null({.geometry = {.size = std::uint64_t{1} << 62}}).value();
    };
    EXPECT_EQ(open_linear({huge(), huge()}).error().detail,
              "size is 9223372036854775808; it must be less than 2^63");
    EXPECT_EQ(open_linear({huge(), huge(), huge(), huge()}).error().detail,
              "the members are more than 2^64 bytes together");
}

}  // namespace
}  // namespace ashlar
