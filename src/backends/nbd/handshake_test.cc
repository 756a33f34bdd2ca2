#include "backends/nbd/handshake.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <vector>

#include "backends/nbd/test_server.h"
#include "interop/nbdkit.h"

namespace ashlar::nbd {
namespace {

using namespace std::chrono_literals;

class HandshakeTest : public testing::Test {
protected:
    test::NbdServer server;
    std::atomic<bool> given_up = false;

    int error_of(const std::string& uri, const char* word = "") {
        const auto connection = connect(uri, 5s, given_up);
        if (connection) return 0;
        const std::string message = connection.error().message();
        EXPECT_NE(message.find(word), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
        return connection.error().code;
    }
};

TEST_F(HandshakeTest, WhatAServerSaysOfItsExport) {
    server.start_nbdkit({"memory", "1M"});
    const auto connection = connect(server.uri(), 5s, given_up);
    ASSERT_TRUE(connection) << connection.error().message();
    const Export& about = connection->about;
    EXPECT_EQ(about.size, 1U << 20);
    EXPECT_TRUE(about.flush && about.fua && about.trim && about.write_zeroes);
    EXPECT_TRUE(about.several_connections);
    EXPECT_FALSE(about.read_only);
    EXPECT_FALSE(connection->structured);  // costs more than it saves on the same machine
    EXPECT_TRUE(connection->socket.valid());
    EXPECT_EQ(fcntl(connection->socket.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(HandshakeTest, ChunksAreAskedForAcrossANetwork) {
    TestServer far(
        1 << 20,
        [](Peer& peer, unsigned) { negotiate(peer, {.size = 1 << 20, .structured = true}); }, true,
        TestServer::Family::tcp);
    const auto connection = connect(far.uri(), 5s, given_up);
    ASSERT_TRUE(connection) << connection.error().message();
    EXPECT_TRUE(connection->structured);
}

TEST_F(HandshakeTest, AHostThatIsGoneIsNoticedHoweverLongTheTimeout) {
    TestServer far(
        1 << 20, [](Peer& peer, unsigned) { peer.answer_all(); }, false, TestServer::Family::tcp);
    const auto connection = connect(far.uri(), 24h, given_up);
    ASSERT_TRUE(connection) << connection.error().message();
    const auto option = [&](int name) {
        int value = -1;
        socklen_t length = sizeof(value);
        getsockopt(connection->socket.get(), IPPROTO_TCP, name, &value, &length);
        return value;
    };
    EXPECT_EQ(option(TCP_KEEPIDLE), 32'767) << "the longest that the kernel takes";
    EXPECT_EQ(option(TCP_KEEPINTVL), 28'800);
    EXPECT_EQ(option(TCP_USER_TIMEOUT), 86'400'000);
}

// Newer ones ask for them unless they are told not to.
TEST_F(HandshakeTest, ExtendedHeadersAreNotAskedFor) {
    constexpr int go = 7;
    constexpr int extended_headers = 11;
    std::vector<int> wanted;
    {
        TestServer far(
            1 << 20,
            [&](Peer& peer, unsigned) {
                negotiate(peer, {.size = 1 << 20, .structured = true, .wanted = &wanted});
            },
            true, TestServer::Family::tcp);
        const auto connection = connect(far.uri(), 5s, given_up);
        ASSERT_TRUE(connection) << connection.error().message();
    }
    EXPECT_EQ(std::ranges::count(wanted, go), 1);
    EXPECT_EQ(std::ranges::count(wanted, extended_headers), 0);
}

// libnbd reads for as long as there is something to read.
TEST_F(HandshakeTest, AServerThatNeverStopsTalking) {
    const auto serve = [](Peer& peer, unsigned) {
        constexpr std::size_t info_bytes = 32;
        peer.set_tamper([](Stream& message) {
            return message.bytes.size() == info_bytes ? Peer::Then::repeat : Peer::Then::go_on;
        });
        negotiate(peer, {.size = 1 << 20});
    };
    TestServer talker(1 << 20, serve, true, TestServer::Family::tcp);
    const auto late = connect(talker.uri(), 200ms, given_up);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ETIMEDOUT) << late.error().message();

    std::thread somebody([this] {
        std::this_thread::sleep_for(200ms);
        given_up = true;
    });
    const auto ended = connect(talker.uri(), 1h, given_up);
    somebody.join();
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, ECANCELED) << ended.error().message();
}

TEST_F(HandshakeTest, ASilentServerHasNoList) {
    TestServer silent(1 << 20, [](Peer&, unsigned) {});
    silent.set_greets(false);
    const auto list = list_nbd_exports(silent.uri(), 200ms);
    ASSERT_FALSE(list);
    EXPECT_EQ(list.error().code, ETIMEDOUT) << list.error().message();
    EXPECT_NE(list.error().message().find("--timeout"), std::string::npos);
}

TEST_F(HandshakeTest, ReadOnlyAndBlockSizes) {
    server.start_nbdkit({"-r", "--filter=blocksize-policy", "memory", "1M",
                         "blocksize-minimum=4096", "blocksize-preferred=8192",
                         "blocksize-maximum=65536"});
    const auto connection = connect(server.uri(), 5s, given_up);
    ASSERT_TRUE(connection) << connection.error().message();
    EXPECT_TRUE(connection->about.read_only);
    EXPECT_EQ(connection->about.block_min, 4096U);
    EXPECT_EQ(connection->about.block_preferred, 8192U);
    EXPECT_EQ(connection->about.block_max, 65536U);
}

TEST_F(HandshakeTest, ErrorsSayWhatToDo) {
    EXPECT_EQ(error_of(server.uri(), "is the socket's path right"), ENOENT);
    EXPECT_EQ(error_of("nbd://127.0.0.1:1/", "is the server running"), ECONNREFUSED);
    EXPECT_EQ(error_of("http://here/", "nbd://HOST"), EINVAL);
    EXPECT_EQ(error_of("nbd+unix:///", "nbd://HOST"), EINVAL);
    server.start_nbdkit(
        {"--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=known"});
    EXPECT_EQ(error_of(server.uri("unknown"), "export"), ENOENT);
    EXPECT_EQ(error_of(server.uri("known")), 0);
}

TEST_F(HandshakeTest, WithTlsOrWithout) {
    std::ofstream(server.path("keys")) << "somebody:00112233445566778899aabbccddeeff\n";
    const std::string secure =
        "nbds+unix://somebody@/?socket=" + server.socket() + "&tls-psk-file=" + server.path("keys");
    server.start_nbdkit({"--tls=require", "--tls-psk=" + server.path("keys"), "memory", "1M"});
    auto connection = connect(secure, 5s, given_up);
    ASSERT_TRUE(connection) << connection.error().message();
    EXPECT_TRUE(connection->about.tls);
    EXPECT_NE(connection->tls, nullptr);
    EXPECT_FALSE(connection->socket.valid());
    EXPECT_EQ(error_of(server.uri(), "write nbds"), EACCES);
    std::ofstream(server.path("other")) << "somebody:ffeeddccbbaa99887766554433221100\n";
    EXPECT_EQ(error_of("nbds+unix://somebody@/?socket=" + server.socket() +
                           "&tls-psk-file=" + server.path("other"),
                       "check the certificates or keys"),
              EACCES);
    EXPECT_EQ(error_of("nbds+unix:///?socket=" + server.socket(), "tls-certificates="), EINVAL);
    server.start_nbdkit({"--tls=off", "memory", "1M"});
    EXPECT_EQ(error_of(secure, "write nbd in place"), EACCES);
}

TEST_F(HandshakeTest, AServerThatSaysNothing) {
    server.start_nbdkit({"memory", "1M"});
    server.signal(SIGSTOP);
    const auto begun = std::chrono::steady_clock::now();
    const auto connection = connect(server.uri(), 300ms, given_up);
    ASSERT_FALSE(connection);
    EXPECT_EQ(connection.error().code, ETIMEDOUT);
    EXPECT_GE(std::chrono::steady_clock::now() - begun, 299ms);
    given_up = true;
    EXPECT_EQ(connect(server.uri(), 1h, given_up).error().code, ECANCELED);
}

}  // namespace
}  // namespace ashlar::nbd
