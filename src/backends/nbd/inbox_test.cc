#include "backends/nbd/inbox.h"

#include <gtest/gtest.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <vector>

#include "backends/nbd/test_wire.h"

namespace ashlar::nbd {
namespace {

using Kind = Inbox::Want::Kind;

// Calls that were asked, what came of them, and the registered buffers' content, which only the
// "kernel" here can reach.
class Asked final : public Caller {
public:
    Call& ask(Command command, std::uint64_t offset = 0, std::uint32_t length = 0,
              bool registered = false) {
        const std::size_t index = calls_.size();
        contents_.emplace_back(length, std::byte{0xee});
        Call& call = calls_.emplace_back();
        call.command = command;
        call.offset = offset;
        call.length = length;
        call.cookie = 100 + index;
        call.sent = true;
        call.buffer = registered ? Buffer::registered(static_cast<std::uint16_t>(index), 0, length)
                                 : Buffer::memory(contents_.back().data(), length);
        if (command == Command::read) call.coverage = Coverage(offset, length);
        waiting_[call.cookie] = &call;
        return call;
    }
    Call* find(std::uint64_t cookie) noexcept override {
        const auto found = waiting_.find(cookie);
        return found == waiting_.end() ? nullptr : found->second;
    }
    void answered(Call& call, IoResult result) noexcept override {
        waiting_.erase(call.cookie);
        call.result = result;
        ended_[call.cookie] = result.error();
    }
    // -1: it waits.
    int ended(const Call& call) const {
        const auto found = ended_.find(call.cookie);
        return found == ended_.end() ? -1 : found->second;
    }
    const std::vector<std::byte>& content(const Call& call) const {
        return contents_[call.cookie - 100];
    }
    std::byte* place(Buffer buffer) {
        return buffer.is_memory() ? buffer.data()
                                  : contents_[buffer.index()].data() + buffer.address();
    }
    std::size_t waiting() const { return waiting_.size(); }

private:
    std::deque<Call> calls_;
    std::deque<std::vector<std::byte>> contents_;
    std::map<std::uint64_t, Call*> waiting_;
    std::map<std::uint64_t, int> ended_;
};

// Gives the stream in pieces of at most `most` bytes; random ones if `random` is there. Answers how
// it ends: bytes (it wants more) or broken or settle.
Kind feed(Inbox& inbox, Asked& asked, std::span<const std::byte> stream, std::size_t most = 1 << 30,
          std::mt19937* random = nullptr) {
    for (;;) {
        const Inbox::Want want = inbox.next();
        if (want.kind == Kind::broken || want.kind == Kind::settle) return want.kind;
        if (want.kind == Kind::zeroes || want.kind == Kind::move) {
            EXPECT_FALSE(want.into.is_memory());
            std::byte* const into = asked.place(want.into);
            if (want.kind == Kind::zeroes) std::memset(into, 0, want.into.length());
            if (want.kind == Kind::move) std::memcpy(into, want.from.data(), want.into.length());
            inbox.came(want.into.length());
            continue;
        }
        EXPECT_GT(want.into.length(), 0U);
        if (stream.empty()) return Kind::bytes;
        std::size_t count = std::min({stream.size(), most, std::size_t{want.into.length()}});
        if (random != nullptr) count = 1 + (*random)() % count;
        std::memcpy(asked.place(want.into), stream.data(), count);
        stream = stream.subspan(count);
        inbox.came(static_cast<std::uint32_t>(count));
    }
}

std::vector<std::byte> pattern(std::size_t length, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(length);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() | 1U);
    return bytes;
}

class InboxTest : public testing::Test {
protected:
    Asked asked;
    Stream stream;

    Kind ends(bool structured = true, std::size_t most = 1 << 30) {
        Inbox inbox(asked, structured);
        return feed(inbox, asked, stream.bytes, most);
    }
};

TEST_F(InboxTest, SimpleAnswersInEverySplit) {
    for (const std::size_t most : {1U, 3U, 17U, 100'000U}) {
        Call& write = asked.ask(Command::write, 0, 512);
        Call& read = asked.ask(Command::read, 4096, 1000);
        Call& flush = asked.ask(Command::flush);
        const auto content = pattern(1000, 1);
        stream = {};
        stream.simple(flush.cookie).simple(read.cookie).data(content).simple(write.cookie, ENOSPC);
        EXPECT_EQ(ends(false, most), Kind::bytes);
        EXPECT_EQ(asked.ended(flush), 0);
        EXPECT_EQ(asked.ended(read), 0);
        EXPECT_EQ(asked.ended(write), ENOSPC);
        EXPECT_EQ(asked.content(read), content);
    }
}

TEST_F(InboxTest, ChunksInAnyOrderAndHoles) {
    for (const bool registered : {false, true}) {
        for (const std::size_t most : {1U, 29U, 100'000U}) {
            Call& read = asked.ask(Command::read, 10'000, 3000, registered);
            auto content = pattern(3000, 2);
            std::fill_n(content.begin() + 1000, 1000, std::byte{0});
            const std::span<const std::byte> all(content);
            stream = {};
            stream.data_chunk(read.cookie, 12'000, all.subspan(2000), false)
                .hole(read.cookie, 11'000, 1000, false)
                .data_chunk(read.cookie, 10'000, all.first(1000), false)
                .none(read.cookie);
            EXPECT_EQ(ends(true, most), Kind::bytes);
            EXPECT_EQ(asked.ended(read), 0);
            EXPECT_EQ(asked.content(read), content);
        }
    }
}

TEST_F(InboxTest, AnErrorAfterSomeDataIsTheCallsEnd) {
    Call& read = asked.ask(Command::read, 0, 1024);
    stream.data_chunk(read.cookie, 0, pattern(512, 3), false)
        .error(read.cookie, EIO, false)
        .error(read.cookie, ENOMEM, true);
    EXPECT_EQ(ends(), Kind::bytes);
    EXPECT_EQ(asked.ended(read), EIO);
}

TEST_F(InboxTest, LongDataGoesToItsPlaceAtOnce) {
    Call& read = asked.ask(Command::read, 0, 100'000);
    stream.chunk(read.cookie, 1, 100'008, true).number(0, 8);
    Inbox inbox(asked, true);
    EXPECT_EQ(feed(inbox, asked, stream.bytes), Kind::bytes);
    const Inbox::Want want = inbox.next();
    EXPECT_EQ(want.into.data(), read.buffer.data());
    EXPECT_EQ(want.into.length(), 100'000U);
}

TEST_F(InboxTest, AnAnswerBeforeTheRequestHasLeftWaits) {
    Call& write = asked.ask(Command::write, 0, 512);
    write.sent = false;
    stream.simple(write.cookie);
    Inbox inbox(asked, true);
    EXPECT_EQ(feed(inbox, asked, stream.bytes), Kind::settle);
    EXPECT_EQ(asked.ended(write), -1);
    write.sent = true;
    EXPECT_EQ(feed(inbox, asked, {}), Kind::bytes);
    EXPECT_EQ(asked.ended(write), 0);
}

TEST_F(InboxTest, WhatBreaksTheProtocol) {
    const auto data = pattern(512, 4);
    const auto broken = [&](const char* what, bool structured, auto make) {
        Call& read = asked.ask(Command::read, 1024, 1024);
        Call& write = asked.ask(Command::write, 1024, 1024);
        stream = {};
        make(read.cookie, write.cookie);
        EXPECT_EQ(ends(structured), Kind::broken) << what;
    };
    broken("no reply", true, [&](auto, auto) { stream.number(1, 4); });
    broken("nobody's", true, [&](auto, auto) { stream.simple(7); });
    broken("twice", true, [&](auto, auto write) { stream.simple(write).simple(write); });
    broken("simple data", true, [&](auto read, auto) { stream.simple(read); });
    broken("a chunk", false, [&](auto read, auto) { stream.none(read); });
    broken("data of a write", true,
           [&](auto, auto write) { stream.data_chunk(write, 1024, data, true); });
    broken("a hole of a write", true,
           [&](auto, auto write) { stream.hole(write, 1024, 512, true); });
    broken("before it", true, [&](auto read, auto) { stream.data_chunk(read, 1023, data, false); });
    broken("behind it", true, [&](auto read, auto) { stream.data_chunk(read, 2000, data, false); });
    broken("twice the same", true, [&](auto read, auto) {
        stream.data_chunk(read, 1024, data, false).data_chunk(read, 1024, data, false);
    });
    broken("a hole of 4 GiB", true,
           [&](auto read, auto) { stream.hole(read, 1024, UINT32_MAX, true); });
    broken("half of it", true, [&](auto read, auto) { stream.data_chunk(read, 1024, data, true); });
    broken("nothing of it", true, [&](auto read, auto) { stream.none(read); });
    broken("none that is not the last", true, [&](auto, auto write) { stream.none(write, false); });
    broken("errors without end", true, [&](auto, auto write) {
        for (int i = 0; i < 65; ++i) stream.error(write, EIO, false);
    });
}

// Any legal stream, in any pieces, in memory and in registered buffers side by side.
TEST_F(InboxTest, AgreesWithWhatTheServerHas) {
    const auto disk = pattern(200'000, 5);
    for (unsigned seed = 0; seed < 300; ++seed) {
        std::mt19937 random(seed);
        Inbox inbox(asked, true);
        std::vector<Call*> reads;
        stream = {};
        for (int i = 0; i < 12; ++i) {
            const bool is_long = random() % 4 == 0;
            const auto length =
                static_cast<std::uint32_t>(1 + random() % (is_long ? 60'000 : 2000));
            const std::uint64_t offset = random() % (disk.size() - length);
            Call& read = asked.ask(Command::read, offset, length, random() % 2 == 0);
            reads.push_back(&read);
            const auto all = std::span(disk).subspan(offset, length);
            const auto half = length / 2;
            if (half > 0 && random() % 2 == 0) {
                stream.data_chunk(read.cookie, offset + half, all.subspan(half), false)
                    .data_chunk(read.cookie, offset, all.first(half), true);
            } else {
                stream.data_chunk(read.cookie, offset, all, true);
            }
            if (random() % 3 == 0) stream.simple(asked.ask(Command::write, 0, 512).cookie);
        }
        ASSERT_EQ(feed(inbox, asked, stream.bytes, 1 << 30, &random), Kind::bytes) << seed;
        ASSERT_EQ(asked.waiting(), 0U);
        for (Call* read : reads) {
            const auto all = std::span(disk).subspan(read->offset, read->length);
            ASSERT_TRUE(std::ranges::equal(asked.content(*read), all)) << seed;
        }
    }
}

}  // namespace
}  // namespace ashlar::nbd
