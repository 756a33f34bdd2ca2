#include <ashlar/nbd.h>

#include <gtest/gtest.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/nbd/test_server.h"
#include "interop/nbdkit.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

class NbdTest : public testing::Test {
protected:
    std::shared_ptr<Backend> open(std::vector<std::string> words) {
        server.start_nbdkit(std::move(words));
        auto opened = open_nbd({.uri = server.uri()});
        EXPECT_TRUE(opened) << opened.error().message();
        return opened ? *opened : nullptr;
    }
    std::string refusal(std::vector<std::string> words) {
        server.start_nbdkit(std::move(words));
        const auto opened = open_nbd({.uri = server.uri()});
        return opened ? "" : opened.error().message();
    }
    test::NbdServer server;
};

TEST_F(NbdTest, WhatTheExportCanDo) {
    const auto disk = open({"memory", "3M"});
    EXPECT_EQ(disk->name(), "nbd");
    EXPECT_EQ(disk->geometry().size, 3U << 20);
    EXPECT_EQ(disk->geometry().logical_block_size, 512U);
    const Capabilities can = disk->capabilities();
    EXPECT_TRUE(can.flush && can.fua && can.discard && can.write_zeroes && !can.read_only);
    EXPECT_EQ(disk->sessions_max(), 0U);
    EXPECT_NE(disk->identity().find(server.socket()), std::string::npos);
}

TEST_F(NbdTest, WhatItCannot) {
    const auto disk =
        open({"-r", "--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"});
    EXPECT_TRUE(disk->capabilities().read_only);
    EXPECT_FALSE(disk->capabilities().flush);
    EXPECT_EQ(disk->sessions_max(), 1U);
}

TEST_F(NbdTest, BlockSizes) {
    const auto disk = open({"--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096",
                            "blocksize-preferred=65536", "blocksize-maximum=1M"});
    EXPECT_EQ(disk->geometry().logical_block_size, 4096U);
    EXPECT_EQ(disk->geometry().physical_block_size, 4096U);
    EXPECT_EQ(disk->geometry().io_opt, 65536U);
    EXPECT_NE(refusal({"--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=8192",
                       "blocksize-preferred=8192", "blocksize-maximum=1M"})
                  .find("smallest block has 8192 bytes"),
              std::string::npos);
    EXPECT_NE(refusal({"memory", "1000"}).find("round-up=512"), std::string::npos);
}

TEST_F(NbdTest, LongRequestsGoInParts) {
    const auto disk = open({"--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=1",
                            "blocksize-preferred=4096", "blocksize-maximum=65536",
                            "blocksize-error-policy=error"});
    test::RingRunner ring;
    auto session = disk->open_session(ring.io());
    ASSERT_TRUE(session);
    std::vector<std::byte> out(300 * 1024);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * 7 >> 4);
    std::vector<std::byte> in(out.size());
    Request request{.offset = 512,
                    .length = out.size(),
                    .op = Op::write,
                    .buffer = Buffer::memory(out.data(), static_cast<std::uint32_t>(out.size()))};
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), 0);
    request.op = Op::read;
    request.buffer = Buffer::memory(in.data(), static_cast<std::uint32_t>(in.size()));
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), 0);
    EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
    ring.cancel();
    ring.run_until([&] { return ring.scope().idle(); });
    (*session)->close();
}

TEST_F(NbdTest, TheServersErrorIsTheCallers) {
    const auto disk =
        open({"--filter=error", "memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%"});
    test::RingRunner ring;
    auto session = disk->open_session(ring.io());
    ASSERT_TRUE(session);
    std::vector<std::byte> data(512);
    const Request request{
        .length = 512, .op = Op::write, .buffer = Buffer::memory(data.data(), 512)};
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), ENOSPC);
    ring.cancel();
    ring.run_until([&] { return ring.scope().idle(); });
    (*session)->close();
}

// Of what the server answers, one by one.
class ErringTest : public testing::Test {
protected:
    std::vector<int> serve(std::vector<std::uint32_t> answers, Op op, std::uint32_t length,
                           std::chrono::milliseconds reconnect) {
        asked = 0;
        nbd::TestServer server(64 << 20, [&](nbd::Peer& peer, unsigned) {
            while (const auto request = peer.request()) {
                if (request->header.command == nbd::Command::disconnect) return;
                const std::uint32_t error = asked < answers.size() ? answers[asked] : 0;
                ++asked;
                if (error == 0) {
                    peer.answer(*request);
                } else {
                    peer.say(nbd::Stream().simple(request->header.cookie, error));
                }
            }
        });
        const auto opened = open_nbd({.uri = server.uri(), .reconnect = reconnect});
        test::RingRunner ring;
        auto session = (*opened)->open_session(ring.io());
        std::vector<std::byte> data(length);
        const Request request{
            .length = length, .op = op, .buffer = Buffer::memory(data.data(), length)};
        const int error = ring.run((*session)->serve(ring.io(), request)).error();
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        (*session)->close();
        session->reset();
        return {error, static_cast<int>(asked)};
    }
    std::atomic<unsigned> asked = 0;
};

TEST_F(ErringTest, WhatMayPassIsAskedAgain) {
    using std::chrono::seconds;
    EXPECT_EQ(serve({EIO, ENOMEM, EIO}, Op::write, 512, seconds(9)), (std::vector{0, 4}));
    EXPECT_EQ(serve({EIO}, Op::write, 512, seconds(0)), (std::vector{EIO, 1}));
    EXPECT_EQ(serve({ENOSPC}, Op::write, 512, seconds(9)), (std::vector{ENOSPC, 1}));
    EXPECT_EQ(serve({EIO}, Op::flush, 0, seconds(9)), (std::vector{EIO, 1}));
    EXPECT_EQ(serve(std::vector<std::uint32_t>(20, EIO), Op::read, 512, seconds(9)),
              (std::vector{EIO, 10}));
    // The second part.
    EXPECT_EQ(serve({0, EIO}, Op::read, (32 << 20) + 512, seconds(9)), (std::vector{0, 3}));
}

TEST_F(NbdTest, ReadOnlyBecauseWeSaySo) {
    server.start_nbdkit({"memory", "1M"});
    const auto opened = open_nbd({.uri = server.uri(), .read_only = true});
    ASSERT_TRUE(opened);
    EXPECT_TRUE((*opened)->capabilities().read_only);
    test::RingRunner ring;
    auto session = (*opened)->open_session(ring.io());
    ASSERT_TRUE(session);
    std::vector<std::byte> data(512, std::byte{1});
    Request request{.length = 512, .op = Op::write, .buffer = Buffer::memory(data.data(), 512)};
    for (const Op op : {Op::write, Op::discard, Op::write_zeroes}) {
        request.op = op;
        EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), EROFS);
    }
    request.op = Op::read;
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), 0);
    EXPECT_EQ(data[0], std::byte{0});
    ring.cancel();
    ring.run_until([&] { return ring.scope().idle(); });
    (*session)->close();
}

TEST_F(NbdTest, SizesThatAreNoDisks) {
    const std::string odd = refusal({"memory", "1000"});
    EXPECT_NE(odd.find("1000 bytes"), std::string::npos) << odd;
    EXPECT_NE(odd.find("nbdkit --filter=truncate round-up=512"), std::string::npos) << odd;
    const std::string nothing = refusal({"memory", "0"});
    EXPECT_NE(nothing.find("0 bytes"), std::string::npos) << nothing;
    const std::string blocks =
        refusal({"--filter=blocksize-policy", "memory", "1049088", "blocksize-minimum=4096",
                 "blocksize-preferred=4096", "blocksize-maximum=1M"});
    EXPECT_NE(blocks.find("round-up=4096"), std::string::npos) << blocks;
    // What the message says to do helps.
    EXPECT_NE(open({"--filter=truncate", "memory", "1000", "round-up=512"}), nullptr);
}

// ---- What reaches the server -------------------------------------------------------------------

using nbd::Command;
using nbd::Peer;
using nbd::RequestHeader;
using nbd::TestServer;

struct Seen {
    Command command = Command::read;
    std::uint16_t flags = 0;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;

    friend bool operator==(const Seen&, const Seen&) = default;
};

TEST(NbdRequestsTest, EachIsWhatWasAsked) {
    std::vector<Seen> seen;
    const auto look = [&](Peer& peer, unsigned) {
        while (const auto asked = peer.request()) {
            const RequestHeader& header = asked->header;
            seen.push_back({header.command, header.flags, header.offset, header.length});
            if (header.command == Command::disconnect) return;
            peer.answer(*asked);
        }
    };
    constexpr std::uint32_t long_one = (32U << 20) + 512;
    {
        TestServer server(64 << 20, look);
        const auto opened = open_nbd({.uri = server.uri()});
        ASSERT_TRUE(opened) << opened.error().message();
        EXPECT_EQ((*opened)->sessions_max(), 1U);
        test::RingRunner ring;
        auto session = (*opened)->open_session(ring.io());
        ASSERT_TRUE(session);
        std::vector<std::byte> data(long_one, std::byte{1});
        const Buffer block = Buffer::memory(data.data(), 512);
        const Buffer all = Buffer::memory(data.data(), long_one);
        const std::vector<Request> requests{
            {.offset = 1024, .length = 512, .op = Op::write, .buffer = block},
            {.offset = 1024, .length = 512, .op = Op::write, .fua = true, .buffer = block},
            {.op = Op::flush},
            {.offset = 4096, .length = 100 << 20, .op = Op::discard},
            {.offset = 4096, .length = 8192, .op = Op::write_zeroes},
            {.offset = 0, .length = (64 << 20) + 512, .op = Op::write_zeroes, .no_unmap = true},
            {.offset = 4096, .length = 8192, .op = Op::write_zeroes, .no_unmap = true},
            {.offset = 512, .length = long_one, .op = Op::write, .fua = true, .buffer = all},
            {.offset = 512, .length = long_one, .op = Op::read, .buffer = all},
        };
        for (const Request& request : requests) {
            EXPECT_EQ(ring.run((*session)->serve(ring.io(), request)).error(), 0);
        }
        EXPECT_TRUE(std::ranges::all_of(data, [](auto byte) { return byte == std::byte{0x5a}; }));
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        (*session)->close();
        session->reset();
    }
    using namespace nbd::command_flag;
    const std::vector<Seen> expected{
        {Command::write, 0, 1024, 512},
        {Command::write, fua, 1024, 512},
        {Command::flush, 0, 0, 0},
        {Command::trim, 0, 4096, 64 << 20},
        {Command::trim, 0, 4096 + (64 << 20), 36 << 20},
        {Command::write_zeroes, 0, 4096, 8192},
        {Command::write_zeroes, no_hole, 0, 64 << 20},
        {Command::write_zeroes, no_hole, 64 << 20, 512},
        {Command::write_zeroes, no_hole, 4096, 8192},
        {Command::write, fua, 512, 32 << 20},
        {Command::write, fua, 512 + (32 << 20), 512},
        {Command::read, 0, 512, 32 << 20},
        {Command::read, 0, 512 + (32 << 20), 512},
        {Command::disconnect, 0, 0, 0},
    };
    EXPECT_EQ(seen, expected);
}

// The protocol's older text holds for all commands but trim, and such servers refuse what is
// longer.
TEST(NbdRequestsTest, ZeroesAreNoLongerThanTheServersLongestBlock) {
    constexpr std::uint32_t block_max = 64 << 10;
    std::atomic<unsigned> count = 0;
    TestServer server(
        64 << 20,
        [&](Peer& peer, unsigned) {
            if (!nbd::negotiate(peer, {.size = 64 << 20, .block_max = block_max})) return;
            while (const auto asked = peer.request()) {
                const RequestHeader& header = asked->header;
                if (header.command == Command::disconnect) return;
                ++count;
                if (header.command != Command::trim && header.length > block_max) {
                    peer.say(nbd::Stream().simple(header.cookie, EINVAL));
                } else {
                    peer.answer(*asked);
                }
            }
        },
        true);
    const auto opened = open_nbd({.uri = server.uri()});
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_EQ((*opened)->geometry().write_zeroes_max, 1U << 20);
    test::RingRunner ring;
    auto session = (*opened)->open_session(ring.io());
    ASSERT_TRUE(session);
    const Request zeroes{.offset = 512, .length = 1 << 20, .op = Op::write_zeroes};
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), zeroes)).error(), 0);
    EXPECT_EQ(count, 16U);
    const Request trim{.offset = 512, .length = 1 << 20, .op = Op::discard};
    EXPECT_EQ(ring.run((*session)->serve(ring.io(), trim)).error(), 0);
    EXPECT_EQ(count, 17U);
    ring.cancel();
    ring.run_until([&] { return ring.scope().idle(); });
    (*session)->close();
}

TEST(NbdRequestsTest, AnotherSessionIsForTheSameExport) {
    TestServer server(1 << 20, [](Peer& peer, unsigned) { peer.answer_all(); });
    const auto opened = open_nbd({.uri = server.uri()});
    ASSERT_TRUE(opened) << opened.error().message();
    test::RingRunner ring;
    {
        auto first = (*opened)->open_session(ring.io());
        ASSERT_TRUE(first);
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        (*first)->close();
    }
    server.set_size(2 << 20);
    const auto second = (*opened)->open_session(ring.io());
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ESTALE);
}

}  // namespace
}  // namespace ashlar
