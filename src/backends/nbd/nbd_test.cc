#include <ashlar/nbd.h>

#include <gtest/gtest.h>
#include <cerrno>
#include <cstring>
#include <vector>

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

}  // namespace
}  // namespace ashlar
