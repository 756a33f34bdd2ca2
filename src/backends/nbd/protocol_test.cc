#include "backends/nbd/protocol.h"

#include <gtest/gtest.h>
#include <cerrno>
#include <random>
#include <vector>

#include "backends/nbd/test_wire.h"

namespace ashlar::nbd {
namespace {

using Kind = ReplyHeader::Kind;

std::optional<ReplyHeader> decoded(std::initializer_list<int> bytes) {
    const auto raw = wire_bytes(bytes);
    const auto length = reply_header_bytes(std::span(raw).first<kMagicBytes>());
    EXPECT_EQ(length, raw.size());
    return decode_reply(raw);
}

TEST(Protocol, RequestsAreBigEndian) {
    const auto bytes = encode({.flags = command_flag::fua | command_flag::no_hole,
                               .command = Command::write_zeroes,
                               .cookie = 0x0102030405060708,
                               .offset = 0x1112131415161718,
                               .length = 0x21222324});
    const auto expected = wire_bytes({0x25, 0x60, 0x95, 0x13, 0,    3,    0,    6,    1,    2,
                                      3,    4,    5,    6,    7,    8,    0x11, 0x12, 0x13, 0x14,
                                      0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24});
    EXPECT_EQ(std::vector<std::byte>(bytes.begin(), bytes.end()), expected);
}

TEST(Protocol, SimpleReplies) {
    const auto reply = decoded({0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8});
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->kind, Kind::simple);
    EXPECT_TRUE(reply->done);
    EXPECT_EQ(reply->error, 28U);
    EXPECT_EQ(reply->cookie, 0x0102030405060708U);
}

TEST(Protocol, Chunks) {
    const auto chunk = [](int flags, int type_high, int type_low, int length) {
        return decoded({0x66, 0x8e, 0x33, 0xef, 0, flags, type_high, type_low, 0, 0,
                        0,    0,    0,    0,    0, 9,     0,         0,        0, length});
    };
    const auto data = chunk(1, 0, 1, 9);
    ASSERT_TRUE(data);
    EXPECT_EQ(data->kind, Kind::data);
    EXPECT_TRUE(data->done);
    EXPECT_EQ(data->length, 9U);
    EXPECT_EQ(data->cookie, 9U);
    EXPECT_FALSE(chunk(0, 0, 1, 9)->done);
    EXPECT_EQ(chunk(0, 0, 2, 12)->kind, Kind::hole);
    EXPECT_EQ(chunk(1, 0, 0, 0)->kind, Kind::none);
    EXPECT_EQ(chunk(1, 0x80, 1, 6)->kind, Kind::error);
    EXPECT_EQ(chunk(1, 0x80, 2, 14)->kind, Kind::error);
    EXPECT_EQ(chunk(1, 0x80, 77, 6)->kind, Kind::error);
    EXPECT_FALSE(chunk(1, 0, 0, 1)) << "nothing, with a payload";
    EXPECT_FALSE(chunk(1, 0, 1, 8)) << "data without data";
    EXPECT_FALSE(chunk(1, 0, 2, 11)) << "half a hole";
    EXPECT_FALSE(chunk(1, 0, 5, 8)) << "a block status that nobody asked for";
    EXPECT_FALSE(chunk(1, 0x80, 1, 5)) << "half an error";
    EXPECT_FALSE(
        decoded({0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0}))
        << "an error with a novel";
}

TEST(Protocol, OtherBytesAreNoReply) {
    for (const auto& bytes : {wire_bytes({0x67, 0x44, 0x66, 0x99}), wire_bytes({0, 0, 0, 0})}) {
        EXPECT_EQ(reply_header_bytes(std::span(bytes).first<kMagicBytes>()), 0U);
    }
}

TEST(Protocol, Errors) {
    EXPECT_EQ(errno_of(0), 0);
    for (const int known : {EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, EOPNOTSUPP, ESHUTDOWN}) {
        EXPECT_EQ(errno_of(static_cast<std::uint32_t>(known)), known);
    }
    EXPECT_EQ(errno_of(ENOENT), EIO);
    EXPECT_EQ(errno_of(UINT32_MAX), EIO);
    EXPECT_EQ(decode_error(wire_bytes({0, 0, 0, 28, 0, 2, 'n', 'o'})), ENOSPC);
    EXPECT_EQ(decode_error(wire_bytes({0, 0, 0, 28, 0, 3, 'n', 'o'})), EPROTO);
    EXPECT_EQ(decode_error(wire_bytes({0, 0, 0, 0, 0, 0})), EPROTO);
    EXPECT_EQ(decode_error(wire_bytes({0, 0, 0, 28, 0})), EPROTO);
}

TEST(Coverage, IsWholeWhenEachByteCameOnce) {
    Coverage coverage(1000, 100);
    EXPECT_FALSE(coverage.complete());
    EXPECT_TRUE(coverage.add(1050, 50));
    EXPECT_FALSE(coverage.add(1049, 2)) << "one byte twice";
    EXPECT_FALSE(coverage.add(999, 1)) << "before it";
    EXPECT_FALSE(coverage.add(1100, 1)) << "behind it";
    EXPECT_FALSE(coverage.add(1000, 0)) << "nothing";
    EXPECT_FALSE(coverage.add(1000, UINT32_MAX));
    EXPECT_TRUE(coverage.add(1000, 50));
    EXPECT_TRUE(coverage.complete());
}

// Against a bit for each byte, as long as the gaps are few.
TEST(Coverage, AgreesWithAModel) {
    std::mt19937 random(1);
    for (int round = 0; round < 2000; ++round) {
        Coverage coverage(64, 64);
        std::vector<bool> model(64);
        for (int i = 0; i < 60; ++i) {
            const std::uint64_t offset = random() % 70;
            const auto length = static_cast<std::uint32_t>(random() % 10);
            bool fits = length != 0 && offset + length <= 64;
            for (std::uint64_t at = offset; fits && at < offset + length; ++at) fits = !model[at];
            std::vector<bool> next = model;
            for (std::uint64_t at = offset; fits && at < offset + length; ++at) next[at] = true;
            int pieces = 0;
            for (std::size_t at = 0; at < 64; ++at)
                pieces += next[at] && (at == 0 || !next[at - 1]);
            if (pieces > 8) continue;
            ASSERT_EQ(coverage.add(64 + offset, length), fits) << offset << "+" << length;
            model = next;
            ASSERT_EQ(coverage.complete(), model == std::vector<bool>(64, true));
        }
    }
}

TEST(Coverage, TooManyGapsAreNotBelieved) {
    Coverage coverage(0, 1000);
    for (std::uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(coverage.add(i * 10, 1));
    EXPECT_FALSE(coverage.add(500, 1));
    EXPECT_TRUE(coverage.add(1, 1)) << "what goes on with another";
}

}  // namespace
}  // namespace ashlar::nbd
