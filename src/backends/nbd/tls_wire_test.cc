#include "backends/nbd/tls_wire.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "backends/nbd/test_wire.h"
#include "base/fd.h"
#include "interop/nbdkit.h"
#include "support/ring_runner.h"

namespace ashlar::nbd {
namespace {

std::vector<std::byte> pattern(std::size_t length) {
    std::vector<std::byte> bytes(length);
    for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(i * 31 >> 3);
    return bytes;
}

class WireUser : public testing::Test, public Caller {
protected:
    ~WireUser() override {
        if (running.done()) return;
        ring.cancel();
        ring.run_until([&] { return running.done(); });
    }
    void run(Handle handle) {
        wire = std::move(*open_tls_wire(std::move(handle), *this));
        running = wire->run(ring.io());
    }

    Call* find(std::uint64_t) noexcept override { return nullptr; }
    void answered(Call& call, IoResult result) noexcept override {
        waiting.erase(call.cookie);
        results[call.cookie] = result.error();
        if (then) then();
    }
    Call& send(Command command, Buffer buffer = {}, std::uint64_t offset = 0) {
        Call& call = calls.emplace_back();
        call.command = command;
        call.offset = offset;
        call.length = buffer.length();
        call.buffer = buffer;
        call.cookie = calls.size();
        if (command == Command::read) call.coverage = Coverage(offset, call.length);
        waiting[call.cookie] = &call;
        wire->send(call);
        return call;
    }
    static Buffer whole(std::vector<std::byte>& data) {
        return Buffer::memory(data.data(), static_cast<std::uint32_t>(data.size()));
    }
    int end() {
        ring.run_until([&] { return running.done(); });
        return running.result().error();
    }
    void run_until_answered() {
        ring.run_until([&] { return waiting.empty() || running.done(); });
        ASSERT_FALSE(running.done()) << running.result().error();
    }

    test::RingRunner ring;
    std::deque<Call> calls;
    std::map<std::uint64_t, Call*> waiting;
    std::map<std::uint64_t, int> results;
    std::function<void()> then;
    std::unique_ptr<Wire> wire;
    Task<> running;
};

// In the clear, so that the test can be the server.
class TlsWireTest : public WireUser {
protected:
    TlsWireTest() {
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        server = Fd(ends[1]);
        // What a server says does not depend here on what it hears, so it can say it beforehand.
        constexpr std::uint64_t reply = 0x3e889045565a9;
        answer(Stream()
                   .number(0x4e42444d41474943, 8)
                   .number(0x49484156454f5054, 8)
                   .number(3, 2)
                   .number(reply, 8)  // structured replies: yes
                   .number(8, 4)
                   .number(1, 4)
                   .number(0, 4)
                   .number(reply, 8)  // the export
                   .number(7, 4)
                   .number(3, 4)
                   .number(12, 4)
                   .number(0, 2)
                   .number(1 << 20, 8)
                   .number(0x6d, 2)
                   .number(reply, 8)  // go
                   .number(7, 4)
                   .number(1, 4)
                   .number(0, 4));
        Handle handle(nbd_create());
        if (libnbd().set_request_extended_headers != nullptr) {
            libnbd().set_request_extended_headers(handle.get(), false);
        }
        EXPECT_EQ(nbd_connect_socket(handle.get(), ends[0]), 0) << nbd_get_error();
        take(unread());
        run(std::move(handle));
    }

    std::size_t unread() const {
        int bytes = 0;
        ioctl(server.get(), FIONREAD, &bytes);
        return static_cast<std::size_t>(bytes);
    }
    std::vector<std::byte> take(std::size_t count) const {
        std::vector<std::byte> bytes(count);
        EXPECT_EQ(recv(server.get(), bytes.data(), count, MSG_WAITALL),
                  static_cast<ssize_t>(count));
        return bytes;
    }
    // The cookie, which is libnbd's. Data is taken too.
    std::uint64_t take_request(std::size_t data = 0) const {
        const auto bytes = take(kRequestBytes + data);
        std::uint64_t cookie = 0;
        for (std::size_t i = 8; i < 16; ++i) {
            cookie = cookie << 8 | std::to_integer<std::uint64_t>(bytes[i]);
        }
        return cookie;
    }
    void answer(const Stream& stream) const {
        EXPECT_EQ(::send(server.get(), stream.bytes.data(), stream.bytes.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(stream.bytes.size()));
    }
    // Until the server hears something.
    void run_round() {
        while (unread() == 0) {
            const int error = ring.reactor().run_once(std::chrono::milliseconds(1));
            ASSERT_TRUE(error == 0 || error == ETIME) << error;
        }
    }

    Fd server;
};

TEST_F(TlsWireTest, EveryCommandAndItsFlags) {
    auto data = pattern(512);
    send(Command::read, whole(data), 1024);
    send(Command::write, whole(data), 2048).flags = command_flag::fua;
    send(Command::flush);
    send(Command::trim, whole(data), 4096);
    send(Command::write_zeroes, whole(data), 8192).flags = command_flag::no_hole;
    EXPECT_EQ(unread(), 0U) << "they leave with the round";
    run_round();
    const std::array<RequestHeader, 5> expected{
        {{.command = Command::read, .cookie = 0, .offset = 1024, .length = 512},
         {.flags = 1, .command = Command::write, .cookie = 0, .offset = 2048, .length = 512},
         {.command = Command::flush, .cookie = 0},
         {.command = Command::trim, .cookie = 0, .offset = 4096, .length = 512},
         {.flags = 2, .command = Command::write_zeroes, .offset = 8192, .length = 512}}};
    for (RequestHeader header : expected) {
        const auto bytes = take(kRequestBytes);
        for (std::size_t i = 8; i < 16; ++i) {
            header.cookie = header.cookie << 8 | std::to_integer<std::uint64_t>(bytes[i]);
        }
        EXPECT_EQ(std::memcmp(bytes.data(), encode(header).data(), kRequestBytes), 0)
            << int(header.command);
        if (header.command == Command::write) {
            EXPECT_EQ(take(512), data);
        }
        if (header.command == Command::read) {
            answer(Stream().data_chunk(header.cookie, 1024, pattern(512), true));
        } else {
            answer(Stream().none(header.cookie));
        }
    }
    run_until_answered();
    for (const auto& [cookie, error] : results) EXPECT_EQ(error, 0) << cookie;
    EXPECT_EQ(results.size(), 5U);
}

TEST_F(TlsWireTest, ReadsInPieces) {
    std::vector<std::byte> data(8192, std::byte{1});
    const auto content = pattern(4096);
    send(Command::read, whole(data), 65536);
    run_round();
    const std::uint64_t cookie = take_request();
    answer(
        Stream().data_chunk(cookie, 65536 + 4096, content, false).hole(cookie, 65536, 4096, true));
    run_until_answered();
    EXPECT_EQ(results[1], 0);
    EXPECT_EQ(data[0], std::byte{0});
    EXPECT_EQ(std::memcmp(data.data() + 4096, content.data(), 4096), 0);
}

TEST_F(TlsWireTest, TheServersErrorIsTheCalls) {
    std::vector<std::byte> data(512);
    for (const auto& [said, meant] : std::map<std::uint32_t, int>{
             {1, EPERM}, {5, EIO}, {28, ENOSPC}, {75, EOVERFLOW}, {95, EOPNOTSUPP}}) {
        const Call& write = send(Command::write, whole(data));
        run_round();
        answer(Stream().simple(take_request(512), said));
        run_until_answered();
        EXPECT_EQ(results[write.cookie], meant);
        const Call& read = send(Command::read, whole(data));
        run_round();
        answer(Stream().error(take_request(), said, true));
        run_until_answered();
        EXPECT_EQ(results[read.cookie], meant);
    }
}

// More than libnbd would let through by itself.
TEST_F(TlsWireTest, TheServerDecidesWhatItTakes) {
    std::vector<std::byte> data(512);
    send(Command::read, whole(data), 1 << 20);
    send(Command::write, whole(data), 1);
    run_round();
    answer(Stream().error(take_request(), 22, true));
    answer(Stream().simple(take_request(512), 28));
    run_until_answered();
    EXPECT_EQ(results[1], EINVAL);
    EXPECT_EQ(results[2], ENOSPC);
}

TEST_F(TlsWireTest, MoreThanTheSocketTakes) {
    auto data = pattern(1 << 20);
    for (int i = 0; i < 50; ++i) send(Command::write, whole(data));
    std::thread reader([&] {
        for (int i = 0; i < 50; ++i) answer(Stream().simple(take_request(1 << 20)));
    });
    run_until_answered();
    reader.join();
    EXPECT_EQ(results.size(), 50U);
}

// Requests that cannot leave while answers that nobody takes are in the way.
TEST_F(TlsWireTest, AnswersGoOnWhileRequestsWait) {
    auto data = pattern(4 << 20);
    std::vector<std::byte> into(4 << 20);
    send(Command::read, whole(into));
    run_round();
    const std::uint64_t read = take_request();
    for (int i = 0; i < 4; ++i) send(Command::write, whole(data));
    std::thread writer([&] {
        const std::span<const std::byte> all(data);
        answer(Stream().data_chunk(read, 0, all, true));
        for (int i = 0; i < 4; ++i) answer(Stream().simple(take_request(4 << 20)));
    });
    run_until_answered();
    writer.join();
    EXPECT_EQ(into, data);
}

// Each answer makes the next request, as a queue does.
TEST_F(TlsWireTest, AskedFromAnAnswer) {
    std::vector<std::byte> data(512);
    then = [&] {
        if (calls.size() < 100) send(Command::flush);
    };
    send(Command::flush);
    for (int i = 0; i < 100; ++i) {
        run_round();
        answer(Stream().none(take_request()));
    }
    run_until_answered();
    EXPECT_EQ(results.size(), 100U);
}

TEST_F(TlsWireTest, TheServerCloses) {
    std::vector<std::byte> data(512);
    send(Command::read, whole(data));
    run_round();
    server.reset();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size(), 1U) << "that is no answer";
    EXPECT_TRUE(results.empty());
    wire->send(*waiting.begin()->second);  // nobody hears it
    wire->hang_up();
    wire->say_goodbye();
}

TEST_F(TlsWireTest, TheServerClosesInTheMiddle) {
    std::vector<std::byte> data(512);
    send(Command::read, whole(data));
    send(Command::flush);
    run_round();
    const std::uint64_t read = take_request();
    const std::uint64_t flush = take_request();
    answer(Stream().none(flush).error(read, 5, false).chunk(read, 1, 520, true));
    server.reset();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(results, (std::map<std::uint64_t, int>{{2, 0}})) << "half an answer is none";
}

TEST_F(TlsWireTest, TheServerClosesWhileARequestLeaves) {
    std::vector<std::byte> data(16 << 20);
    send(Command::write, whole(data));
    send(Command::flush);
    run_round();
    server.reset();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size(), 2U);
}

TEST_F(TlsWireTest, WhatBreaksTheProtocol) {
    answer(Stream().number(0x12345678, 4).number(77, 8).number(0, 8));
    EXPECT_EQ(end(), EPROTO);
}

class LyingServer : public TlsWireTest,
                    public testing::WithParamInterface<Stream (*)(std::uint64_t)> {};

TEST_P(LyingServer, IsNotBelieved) {
    std::vector<std::byte> data(1024);
    send(Command::read, whole(data));
    run_round();
    answer(GetParam()(take_request()));
    EXPECT_EQ(end(), EPROTO);
    EXPECT_EQ(waiting.size(), 1U);
    EXPECT_TRUE(results.empty());
}

INSTANTIATE_TEST_SUITE_P(
    All, LyingServer,
    testing::Values(
        [](std::uint64_t cookie) { return Stream().none(cookie); },
        [](std::uint64_t cookie) { return Stream().data_chunk(cookie, 0, pattern(512), true); },
        [](std::uint64_t cookie) {
            return Stream()
                .data_chunk(cookie, 0, pattern(512), false)
                .data_chunk(cookie, 0, pattern(512), true);
        },
        [](std::uint64_t cookie) {
            return Stream().hole(cookie, 0, 512, false).data_chunk(cookie, 256, pattern(768), true);
        },
        [](std::uint64_t) { return Stream().number(0x12345678, 4).number(0, 8).number(0, 8); }));

TEST_F(TlsWireTest, HangUp) {
    send(Command::flush);
    run_round();
    wire->hang_up();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size(), 1U);
}

TEST_F(TlsWireTest, CancelledItSaysGoodbye) {
    ring.cancel();
    EXPECT_EQ(end(), ECANCELED);
    wire->say_goodbye();
    auto bytes = take(kRequestBytes);
    std::memset(bytes.data() + 8, 0, 8);
    const auto expected = encode({.command = Command::disconnect});
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), kRequestBytes), 0);
    wire.reset();
    EXPECT_EQ(unread(), 0U);
}

TEST_F(TlsWireTest, NoGoodbyeInTheMiddleOfAMessage) {
    {
        std::vector<std::byte> data(16 << 20);
        send(Command::write, whole(data));
        send(Command::flush);
        run_round();
        ring.cancel();
        EXPECT_EQ(end(), ECANCELED);
    }
    const std::size_t sent = unread();
    wire->say_goodbye();
    EXPECT_EQ(unread(), sent);
}

// What was asked may be gone by the time of the answer.
TEST_F(TlsWireTest, NothingIsTouchedAfterTheEnd) {
    {
        auto data = std::make_unique<std::vector<std::byte>>(1 << 20);
        send(Command::read, whole(*data));
        run_round();
        const std::uint64_t cookie = take_request();
        answer(Stream().chunk(cookie, 1, (1 << 20) + 8, true).number(0, 8).data(pattern(65536)));
        ring.run_once();
        ring.cancel();
        EXPECT_EQ(end(), ECANCELED);
    }
    calls.clear();
    waiting.clear();
    answer(Stream().data(pattern(65536)));
    wire->say_goodbye();
    wire.reset();
    EXPECT_TRUE(results.empty());
}

// ---- With TLS ----------------------------------------------------------------------------------

class ThroughTls : public WireUser {
protected:
    void connect() {
        std::ofstream(server.path("keys")) << "somebody:00112233445566778899aabbccddeeff\n";
        server.start_nbdkit({"--tls=require", "--tls-psk=" + server.path("keys"), "memory", "16M"});
        Handle handle(nbd_create());
        nbd_set_uri_allow_local_file(handle.get(), true);
        const std::string uri = "nbds+unix://somebody@/?socket=" + server.socket() +
                                "&tls-psk-file=" + server.path("keys");
        ASSERT_EQ(nbd_connect_uri(handle.get(), uri.c_str()), 0) << nbd_get_error();
        ASSERT_EQ(nbd_get_tls_negotiated(handle.get()), 1);
        run(std::move(handle));
    }
    test::NbdServer server;
};

TEST_F(ThroughTls, WhatWasWrittenIsRead) {
    connect();
    // Lengths below, at and above those of TLS records, many at once.
    std::mt19937 random(1);
    std::deque<std::vector<std::byte>> written;
    std::deque<std::vector<std::byte>> read;
    for (unsigned i = 0; i < 64; ++i) {
        auto& data = written.emplace_back(512 * (1 + random() % 512));
        for (std::byte& byte : data) byte = static_cast<std::byte>(random());
        send(Command::write, whole(data), std::uint64_t{i} * 256 * 1024);
    }
    run_until_answered();
    for (unsigned i = 0; i < 64; ++i) {
        auto& data = read.emplace_back(written[i].size());
        send(Command::read, whole(data), std::uint64_t{i} * 256 * 1024);
    }
    run_until_answered();
    for (const auto& [cookie, error] : results) EXPECT_EQ(error, 0) << cookie;
    EXPECT_EQ(read, written);
}

TEST_F(ThroughTls, TheServerDies) {
    connect();
    auto data = pattern(4 << 20);
    for (int i = 0; i < 4; ++i) send(Command::write, whole(data));
    ring.run_once();
    server.signal(SIGSTOP);
    ring.run_once();
    server.kill();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size() + results.size(), 4U);
}

TEST_F(ThroughTls, Cancelled) {
    connect();
    ring.cancel();
    EXPECT_EQ(end(), ECANCELED);
    wire->say_goodbye();
}

}  // namespace
}  // namespace ashlar::nbd
