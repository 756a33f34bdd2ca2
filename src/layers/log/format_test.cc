#include "layers/log/format.h"

#include <cstring>

#include <gtest/gtest.h>

#include "layers/log/crc32c.h"

namespace ashlar::layers {
namespace {

using Kind = LogRecord::Kind;
constexpr LogHead kHead{.disk_size = 1 << 20, .block = 4096};
constexpr std::uint64_t kPlace = 640;

std::optional<LogRecord> decoded(const LogRecord& record) {
    return decode_record(encode(record), record.place, kHead);
}

// As another program, or a fault of this one, might write it: sound but for what it says.
template <class T>
LogBytes with(LogBytes bytes, std::size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    const std::uint32_t sum = crc32c(std::span(bytes).first(60));
    std::memcpy(bytes.data() + 60, &sum, sizeof(sum));
    return bytes;
}

TEST(LogFormat, HeadsAreReadBack) {
    const auto head = decode_head(encode(kHead));
    ASSERT_TRUE(head);
    EXPECT_EQ(head->disk_size, kHead.disk_size);
    EXPECT_EQ(head->block, kHead.block);
}

TEST(LogFormat, RecordsAreReadBack) {
    const LogRecord write{.kind = Kind::write,
                          .fua = true,
                          .queue = 3,
                          .place = kPlace,
                          .range = {8192, 4096},
                          .data_sum = 0x12345678};
    const auto read = decoded(write);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->kind, Kind::write);
    EXPECT_TRUE(read->fua);
    EXPECT_FALSE(read->no_unmap);
    EXPECT_EQ(read->queue, 3);
    EXPECT_EQ(read->range.offset, 8192U);
    EXPECT_EQ(read->data_sum, 0x12345678U);
    EXPECT_EQ(read->end(), kPlace + 64 + 4096);
    const auto zeroes = decoded({.kind = Kind::write_zeroes,
                                 .no_unmap = true,
                                 .place = kPlace,
                                 .range = {0, kHead.disk_size}});
    ASSERT_TRUE(zeroes);
    EXPECT_TRUE(zeroes->no_unmap);
    EXPECT_EQ(zeroes->end(), kPlace + 64) << "no data follows";
    const auto completion =
        decoded({.kind = Kind::completion, .place = kPlace, .request = 64, .error = 5});
    ASSERT_TRUE(completion);
    EXPECT_EQ(completion->request, 64U);
    EXPECT_EQ(completion->error, 5);
}

// The layout is what other versions and programs rely on.
TEST(LogFormat, FieldsAreWhereTheyAreSaidToBe) {
    const LogBytes bytes = encode(LogRecord{.kind = Kind::discard,
                                            .no_unmap = true,
                                            .queue = 0x0102,
                                            .place = 0x40,
                                            .range = {0x1000, 0x2000}});
    EXPECT_EQ(std::memcmp(bytes.data(), "rec\n\x02\x02\x02\x01\x40\0\0\0\0\0\0\0", 16), 0);
    EXPECT_EQ(bytes[25], std::byte{0x10});
    EXPECT_EQ(bytes[33], std::byte{0x20});
    const LogBytes head = encode(kHead);
    EXPECT_EQ(std::memcmp(head.data(), "ashlrlog\x01\0\0\0\0\x10\0\0\0\0\x10\0\0\0\0\0", 24), 0);
}

TEST(LogFormat, NoChangedBitIsOverlooked) {
    const LogBytes sound =
        encode(LogRecord{.kind = Kind::write, .place = kPlace, .range = {4096, 4096}});
    const LogBytes head = encode(kHead);
    for (std::size_t bit = 0; bit < 8 * kLogUnit; ++bit) {
        LogBytes bytes = sound;
        bytes[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_FALSE(decode_record(bytes, kPlace, kHead)) << bit;
        bytes = head;
        bytes[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_FALSE(decode_head(bytes)) << bit;
    }
}

TEST(LogFormat, ARecordIsOneOnlyAtItsPlace) {
    const LogBytes bytes = encode(LogRecord{.kind = Kind::flush, .place = kPlace});
    EXPECT_TRUE(decode_record(bytes, kPlace, kHead));
    EXPECT_FALSE(decode_record(bytes, kPlace + 64, kHead));
}

TEST(LogFormat, WhatMakesNoSenseIsNoRecord) {
    const auto refused = [](const LogRecord& record) { return !decoded(record); };
    EXPECT_TRUE(refused({.kind = Kind{0}, .place = kPlace}));
    EXPECT_TRUE(refused({.kind = Kind{6}, .place = kPlace}));
    EXPECT_TRUE(refused({.kind = Kind::write, .place = kPlace})) << "no length";
    EXPECT_TRUE(refused({.kind = Kind::write, .place = kPlace, .range = {512, 4096}}));
    EXPECT_TRUE(refused({.kind = Kind::write, .place = kPlace, .range = {4096, 512}}));
    EXPECT_TRUE(refused({.kind = Kind::write, .place = kPlace, .range = {1 << 20, 4096}}));
    EXPECT_TRUE(refused({.kind = Kind::discard, .place = kPlace, .range = {4096, 1 << 20}}));
    EXPECT_TRUE(refused(
        {.kind = Kind::discard, .place = kPlace, .range = {4096, UINT64_MAX / 4096 * 4096}}));
    EXPECT_TRUE(refused({.kind = Kind::flush, .place = kPlace, .range = {0, 4096}}));
    EXPECT_TRUE(refused({.kind = Kind::completion, .place = kPlace, .request = 0}));
    EXPECT_TRUE(refused({.kind = Kind::completion, .place = kPlace, .request = kPlace}));
    EXPECT_TRUE(refused({.kind = Kind::completion, .place = kPlace, .request = 65}));
    EXPECT_TRUE(refused({.kind = Kind::completion, .place = kPlace, .request = 64, .error = -1}));
    const LogBytes flush = encode(LogRecord{.kind = Kind::flush, .place = kPlace});
    EXPECT_TRUE(decode_record(with(flush, 6, std::uint16_t{9}), kPlace, kHead));
    EXPECT_FALSE(decode_record(with(flush, 5, std::uint8_t{4}), kPlace, kHead)) << "a flag";
    EXPECT_FALSE(decode_record(with(flush, 50, std::uint8_t{1}), kPlace, kHead)) << "zeroes";
    const LogHead large{.disk_size = std::uint64_t{1} << 40};
    const LogRecord most{.kind = Kind::write, .place = kPlace, .range = {0, kLogDataMost}};
    EXPECT_TRUE(decode_record(encode(most), kPlace, large));
    const LogRecord more{.kind = Kind::write, .place = kPlace, .range = {0, kLogDataMost + 512}};
    EXPECT_FALSE(decode_record(encode(more), kPlace, large));
}

TEST(LogFormat, HeadsThatAreRefusedSayWhy) {
    const LogBytes head = encode(kHead);
    const auto why = [](std::span<const std::byte> bytes) { return decode_head(bytes).error(); };
    EXPECT_EQ(why({}), "it is empty; a log begins with 64 bytes");
    EXPECT_EQ(why(std::span(head).first(63)), "it has 63 bytes; a log begins with 64");
    EXPECT_EQ(why(LogBytes{}), "it is no log of the log layer");
    EXPECT_EQ(why(with(head, 8, 2U)), "it is of version 2; this program reads version 1");
    EXPECT_EQ(why(with(head, 12, 0U)), "its first 64 bytes are damaged");
    EXPECT_EQ(why(with(head, 12, 768U)), "its first 64 bytes are damaged");
    EXPECT_EQ(why(with(head, 16, std::uint64_t{4097})), "its first 64 bytes are damaged");
    EXPECT_EQ(why(with(head, 16, UINT64_MAX / 4096 * 4096)), "its first 64 bytes are damaged");
    EXPECT_EQ(why(with(head, 30, 1U)), "its first 64 bytes are damaged");
}

}  // namespace
}  // namespace ashlar::layers
