#include "backends/nbd/inbox.h"

#include <gtest/gtest.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <span>
#include <utility>
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
        call.buffer = registered
                          ? Buffer::registered(static_cast<std::uint16_t>(index), kAddress, length)
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
        if (buffer.is_memory()) return buffer.data();
        auto& content = contents_[buffer.index()];
        EXPECT_GE(buffer.address(), kAddress);
        EXPECT_LE(buffer.address() - kAddress + buffer.length(), content.size());
        return content.data() + (buffer.address() - kAddress);
    }
    std::size_t waiting() const { return waiting_.size(); }

private:
    static constexpr std::uint32_t kAddress = 0x12345;  // of each registered buffer

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
        EXPECT_GT(want.into.length(), 0U);
        const bool of_stream = want.kind == Kind::bytes;
        if (of_stream && stream.empty()) return Kind::bytes;
        std::size_t count = std::min(most, std::size_t{want.into.length()});
        if (of_stream) count = std::min(count, stream.size());
        if (random != nullptr) count = 1 + (*random)() % count;
        EXPECT_TRUE(of_stream || !want.into.is_memory());
        std::byte* const into = asked.place(want.into);
        if (of_stream) {
            std::memcpy(into, stream.data(), count);
            stream = stream.subspan(count);
        } else if (want.kind == Kind::zeroes) {
            std::memset(into, 0, count);
        } else {
            EXPECT_EQ(want.from.length(), want.into.length());
            std::memcpy(into, want.from.data(), count);
        }
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
    broken("no data", true, [&](auto read, auto) { stream.data_chunk(read, 1024, {}, false); });
    broken("a hole of nothing", true, [&](auto read, auto) { stream.hole(read, 1024, 0, false); });
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
    broken("an error that is none", true, [&](auto read, auto) { stream.error(read, 0, true); });
    broken("a message that is not there", true, [&](auto read, auto) {
        stream.chunk(read, 0x8001, 6, true).number(EIO, 4).number(1, 2);
    });
    broken("errors without end", true, [&](auto, auto write) {
        for (int i = 0; i < 65; ++i) stream.error(write, EIO, false);
    });
}

TEST_F(InboxTest, DataOfARegisteredBufferDoesNotComeWithItsHeader) {
    for (const bool structured : {false, true}) {
        const auto content = pattern(600, 6);
        stream = {};
        for (int i = 0; i < 3; ++i) {
            Call& read = asked.ask(Command::read, 0, 600, true);
            if (structured) {
                stream.data_chunk(read.cookie, 0, content, true);
            } else {
                stream.simple(read.cookie).data(content);
            }
            stream.simple(asked.ask(Command::flush).cookie);
        }
        Inbox inbox(asked, structured);
        std::span<const std::byte> rest(stream.bytes);
        for (Inbox::Want want = inbox.next(); !rest.empty(); want = inbox.next()) {
            ASSERT_EQ(want.kind, Kind::bytes);
            const auto count = std::min<std::size_t>(want.into.length(), rest.size());
            std::memcpy(asked.place(want.into), rest.data(), count);
            rest = rest.subspan(count);
            inbox.came(static_cast<std::uint32_t>(count));
        }
        ASSERT_EQ(inbox.next().kind, Kind::bytes);
        EXPECT_EQ(asked.waiting(), 0U);
    }
}

// Any legal stream: answers in any order, their chunks side by side, in any pieces, in memory and
// in registered buffers. The result is known beforehand.
class Model {
public:
    Model(Asked& asked, std::mt19937& random, bool structured)
        : asked_(asked), random_(random), structured_(structured), disk_(content()) {
        const unsigned calls = 1 + below(16);
        for (unsigned i = 0; i < calls; ++i) structured_ ? ask() : ask_simple();
        // Chunks of one answer keep no order but for the last; those of others come in between.
        while (!answers_.empty()) {
            auto& one = answers_[below(answers_.size())];
            stream.data(one.front().bytes);
            one.pop_front();
            std::erase_if(answers_, [](const auto& answer) { return answer.empty(); });
        }
    }
    void check() const {
        EXPECT_EQ(asked_.waiting(), 0U);
        for (const auto& [call, error] : expected_) {
            EXPECT_EQ(asked_.ended(*call), error);
            if (error != 0 || call->command != Command::read) continue;
            const auto all = std::span(disk_).subspan(call->offset, call->length);
            EXPECT_TRUE(std::ranges::equal(asked_.content(*call), all));
        }
    }
    Stream stream;

private:
    // What reads as zeroes may come as holes.
    static const std::vector<std::byte>& content() {
        static const auto disk = [] {
            auto bytes = pattern(200'000, 5);
            for (std::size_t i = 0; i < bytes.size(); i += 3000) {
                std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(i), 1000, std::byte{});
            }
            return bytes;
        }();
        return disk;
    }
    std::uint32_t below(std::size_t most) { return static_cast<std::uint32_t>(random_() % most); }
    Call& expect(Call& call, int error) {
        expected_.emplace_back(&call, error);
        return call;
    }
    Call& ask_read(int error) {
        const std::uint32_t length = 1 + below(below(4) == 0 ? 60'000 : 2000);
        const std::uint64_t offset = below(disk_.size() - length);
        return expect(asked_.ask(Command::read, offset, length, below(2) == 0), error);
    }
    void ask_simple() {
        auto& answer = answers_.emplace_back();
        const int error = below(5) == 0 ? ENOSPC : 0;
        const bool read = below(3) != 0;
        Call& call = read ? ask_read(error) : expect(asked_.ask(Command::write, 0, 512), error);
        Stream one = Stream().simple(call.cookie, static_cast<std::uint32_t>(error));
        if (read && error == 0) one.data(std::span(disk_).subspan(call.offset, call.length));
        answer.push_back(one);
    }
    void ask() {
        auto& answer = answers_.emplace_back();
        const int error = below(5) == 0 ? EIO : 0;
        if (below(3) == 0) {
            Call& call = expect(asked_.ask(Command::write, 0, 512), error);
            Stream one;
            if (error != 0)
                one.error(call.cookie, EIO, true);
            else if (below(2) == 0)
                one.simple(call.cookie);
            else
                one.none(call.cookie);
            answer.push_back(one);
            return;
        }
        Call& call = ask_read(error);
        std::vector<std::uint64_t> cuts{call.offset, call.offset + call.length};
        for (unsigned i = below(6); i > 0; --i) cuts.push_back(call.offset + below(call.length));
        std::ranges::sort(cuts);
        cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
        for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
            const std::uint64_t begin = cuts[i];
            const auto length = static_cast<std::uint32_t>(cuts[i + 1] - begin);
            const auto piece = std::span(disk_).subspan(begin, length);
            const bool zero = std::ranges::count(piece, std::byte{0}) == length;
            Stream& one = answer.emplace_back();
            if (zero)
                one.hole(call.cookie, begin, length, false);
            else
                one.data_chunk(call.cookie, begin, piece, false);
        }
        std::ranges::shuffle(answer, random_);
        if (error != 0) answer.resize(below(answer.size() + 1));
        answer.emplace_back();
        if (error != 0)
            answer.back().error(call.cookie, EIO, true);
        else
            answer.back().none(call.cookie);
    }

    Asked& asked_;
    std::mt19937& random_;
    const bool structured_;
    const std::vector<std::byte>& disk_;
    std::vector<std::deque<Stream>> answers_;
    std::vector<std::pair<Call*, int>> expected_;
};

TEST_F(InboxTest, AgreesWithWhatTheServerHas) {
    for (unsigned seed = 0; seed < 400 && !HasFailure(); ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937 random(seed);
        const bool structured = seed % 3 != 0;
        Asked all;
        Model model(all, random, structured);
        Inbox inbox(all, structured);
        const std::size_t most = seed % 7 == 0 ? 1 + seed % 40 : 1 << 30;
        EXPECT_EQ(feed(inbox, all, model.stream.bytes, most, &random), Kind::bytes);
        model.check();
    }
}

// Some bytes are not what the server would have sent: whatever comes of it, nothing is written
// outside of where it belongs, and it comes to an end.
TEST_F(InboxTest, DamagedStreamsStayWithinTheirBuffers) {
    unsigned broken = 0;
    for (unsigned seed = 0; seed < 1000 && !HasFailure(); ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937 random(seed);
        Asked all;
        Model model(all, random, seed % 3 != 0);
        auto& bytes = model.stream.bytes;
        for (unsigned i = 0; i < 20; ++i) {
            // Most often near the beginning, which is a header.
            const std::size_t reach =
                random() % 2 == 0 ? std::min<std::size_t>(64, bytes.size()) : bytes.size();
            bytes[random() % reach] = static_cast<std::byte>(random() % 4 == 0 ? 0xff : random());
        }
        Inbox inbox(all, seed % 3 != 0);
        broken += feed(inbox, all, bytes, 1 << 30, &random) == Kind::broken ? 1 : 0;
    }
    EXPECT_GT(broken, 500U);
}

}  // namespace
}  // namespace ashlar::nbd
