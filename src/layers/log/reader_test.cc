#include "layers/log/reader.h"

#include <cerrno>

#include <gtest/gtest.h>

#include "layers/log/test_log.h"

namespace ashlar::layers {
namespace {

using Kind = LogRecord::Kind;

struct Read {
    std::vector<std::uint64_t> places;
    std::vector<Range> gaps;
    std::uint64_t position = 0;
};
Read read_all(TestLog& log) {
    LogReader reader = LogReader::open(log.path()).value();
    Read read;
    while (const auto record = reader.next().value()) read.places.push_back(record->place);
    EXPECT_FALSE(reader.next().value()) << "the end stays the end";
    read.gaps = reader.gaps();
    read.position = reader.position();
    return read;
}

TEST(LogReader, GivesRecordsInTheirOrder) {
    TestLog log;
    const auto write = log.write(0, 4096, 'a');
    const auto large = log.write(0, 1 << 16, 'b');
    const auto flush = log.flush();
    const auto end = log.complete(flush);
    const Read read = read_all(log);
    EXPECT_EQ(read.places, (std::vector{write, large, flush, end}));
    EXPECT_TRUE(read.gaps.empty());
    EXPECT_EQ(read.position, log.bytes.size());
}

TEST(LogReader, DataIsReadFromTheFile) {
    TestLog log;
    log.write(0, 512, 'a');
    log.write(512, 1024, 'b');
    LogReader reader = LogReader::open(log.path()).value();
    static_cast<void>(reader.next());
    const LogRecord second = reader.next().value().value();
    std::vector<std::byte> data(24);
    ASSERT_TRUE(reader.read_data(second, 1000, data));
    EXPECT_EQ(data, std::vector(24, static_cast<std::byte>('b')));
    EXPECT_EQ(reader.read_data(second, 1010, data).error().code, EIO) << "past the file's end";
}

TEST(LogReader, ALogWithoutRecordsIsWhole) {
    TestLog log;
    const Read read = read_all(log);
    EXPECT_TRUE(read.places.empty());
    EXPECT_TRUE(read.gaps.empty());
}

TEST(LogReader, ATornTailIsAGapWhereverItIsTorn) {
    TestLog whole;
    const auto first = whole.write(0, 512, 'a');
    const auto torn = whole.write(0, 512, 'b');
    for (std::size_t size = torn + 1; size < whole.bytes.size(); size += 13) {
        TestLog log = TestLog();
        log.bytes.assign(whole.bytes.begin(),
                         whole.bytes.begin() + static_cast<std::ptrdiff_t>(size));
        const Read read = read_all(log);
        EXPECT_EQ(read.places, std::vector{first});
        ASSERT_EQ(read.gaps.size(), 1U);
        EXPECT_EQ(read.gaps[0].offset, torn);
        EXPECT_EQ(read.gaps[0].length, size - torn);
        EXPECT_EQ(read.position, torn);
    }
}

TEST(LogReader, WhatFollowsAGapCounts) {
    TestLog log;
    const auto first = log.write(0, 512, 'a');
    const auto hole = log.bytes.size();
    log.bytes.resize(hole + 1024);
    const auto second = log.write(0, 512, 'b');
    log.bytes.resize(log.bytes.size() + 7);  // torn, and continued where records may begin
    const auto tear = log.bytes.size() - 7;
    log.bytes.resize(tear + 64);
    const auto third = log.flush();
    const Read read = read_all(log);
    EXPECT_EQ(read.places, (std::vector{first, second, third}));
    ASSERT_EQ(read.gaps.size(), 2U);
    EXPECT_EQ(read.gaps[0].offset, hole);
    EXPECT_EQ(read.gaps[0].length, 1024U);
    EXPECT_EQ(read.gaps[1].offset, tear);
    EXPECT_EQ(read.gaps[1].length, 64U);
}

TEST(LogReader, AWriteWhoseDataIsDamagedIsNone) {
    TestLog log;
    const auto write = log.write(0, 4096, 'a');
    const auto flush = log.flush();
    log.bytes[write + 64 + 4000] ^= std::byte{1};
    EXPECT_EQ(read_all(log).places, std::vector{flush});
}

// What a disk holds may be a log too.
TEST(LogReader, RecordsInAWritesDataAreNone) {
    TestLog inner;
    for (int i = 0; i < 7; ++i) inner.flush();
    ASSERT_EQ(inner.bytes.size(), 512U);
    TestLog log;
    const auto write = log.add(
        {.kind = Kind::write, .range = {0, 512}, .data_sum = crc32c(inner.bytes)}, inner.bytes);
    EXPECT_EQ(read_all(log).places, std::vector{write});
    log.bytes[write] ^= std::byte{1};
    EXPECT_TRUE(read_all(log).places.empty()) << "nor when the write is damaged";
}

TEST(LogReader, Errors) {
    EXPECT_EQ(LogReader::open("/none/log").error().code, ENOENT);
    EXPECT_EQ(LogReader::open("/dev/null").error().code, EINVAL);
    EXPECT_EQ(LogReader::open("/").error().code, EINVAL);
    TestLog log;
    log.bytes.clear();
    EXPECT_EQ(LogReader::open(log.path()).error().detail,
              "it is empty; a log begins with 64 bytes");
}

}  // namespace
}  // namespace ashlar::layers
