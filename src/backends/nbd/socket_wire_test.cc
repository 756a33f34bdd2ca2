#include "backends/nbd/socket_wire.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <thread>
#include <vector>

#include "backends/nbd/test_wire.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar::nbd {
namespace {

class SocketWireTest : public testing::Test, public Caller {
protected:
    SocketWireTest() {
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        server = Fd(ends[1]);
        wire = std::move(*open_socket_wire(Fd(ends[0]), true, *this));
        running = wire->run(ring.io());
    }
    ~SocketWireTest() override {
        if (!running.done()) {
            ring.cancel();
            ring.run_until([&] { return running.done(); });
        }
    }

    Call* find(std::uint64_t cookie) noexcept override {
        const auto found = waiting.find(cookie);
        return found == waiting.end() ? nullptr : found->second;
    }
    void answered(Call& call, IoResult result) noexcept override {
        waiting.erase(call.cookie);
        results[call.cookie] = result.error();
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
    void answer(const Stream& stream) const {
        EXPECT_EQ(::send(server.get(), stream.bytes.data(), stream.bytes.size(), 0),
                  static_cast<ssize_t>(stream.bytes.size()));
    }
    int end() {
        ring.run_until([&] { return running.done(); });
        return running.result().error();
    }

    test::RingRunner ring;
    Fd server;
    std::deque<Call> calls;
    std::map<std::uint64_t, Call*> waiting;
    std::map<std::uint64_t, int> results;
    std::unique_ptr<Wire> wire;
    Task<> running;
};

std::vector<std::byte> pattern(std::size_t length) {
    std::vector<std::byte> bytes(length);
    for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(i * 31 >> 3);
    return bytes;
}

TEST_F(SocketWireTest, RequestsOfARoundLeaveTogether) {
    auto data = pattern(4096);
    for (int i = 0; i < 10; ++i) {
        send(Command::write, Buffer::memory(data.data(), 4096), std::uint64_t(i) * 4096);
        send(Command::flush);
    }
    EXPECT_EQ(unread(), 0U);
    ring.run_once();
    EXPECT_EQ(unread(), 20 * kRequestBytes + 10 * 4096);
    const auto bytes = take(kRequestBytes + 4096 + kRequestBytes);
    const auto first = encode({.command = Command::write, .cookie = 1, .length = 4096});
    EXPECT_EQ(std::memcmp(bytes.data(), first.data(), kRequestBytes), 0);
    EXPECT_EQ(std::memcmp(bytes.data() + kRequestBytes, data.data(), 4096), 0);
    const auto second = encode({.command = Command::flush, .cookie = 2});
    EXPECT_EQ(std::memcmp(bytes.data() + kRequestBytes + 4096, second.data(), kRequestBytes), 0);
}

TEST_F(SocketWireTest, MoreThanTheSocketTakes) {
    constexpr std::uint32_t length = 1 << 20;
    auto data = pattern(length);
    for (int i = 0; i < 100; ++i) send(Command::write, Buffer::memory(data.data(), length));
    std::thread reader([&] {
        for (int i = 0; i < 100; ++i) {
            const auto bytes = take(kRequestBytes + length);
            EXPECT_EQ(std::memcmp(bytes.data() + kRequestBytes, data.data(), length), 0) << i;
            answer(Stream().simple(static_cast<std::uint64_t>(i) + 1));
        }
    });
    ring.run_until([&] { return waiting.empty(); });
    reader.join();
    EXPECT_EQ(results.size(), 100U);
}

TEST_F(SocketWireTest, RegisteredBuffers) {
    test::RegisteredMemory memory(ring, 65536);
    const auto data = pattern(65536);
    std::ranges::copy(data, memory.bytes().begin());
    send(Command::write, memory.buffer(0, 65536));
    std::thread reader([&] {
        const auto bytes = take(kRequestBytes + 65536);
        EXPECT_EQ(std::memcmp(bytes.data() + kRequestBytes, data.data(), 65536), 0);
        answer(Stream().none(1));
    });
    ring.run_until([&] { return waiting.empty(); });
    reader.join();

    send(Command::read, memory.buffer(4096, 8192), 1 << 20);
    ring.run_once();
    take(kRequestBytes);
    const std::span<const std::byte> all(data);
    answer(Stream()
               .hole(2, (1 << 20) + 4096, 4096, false)
               .data_chunk(2, 1 << 20, all.subspan(100, 4096), true));
    ring.run_until([&] { return waiting.empty(); });
    EXPECT_EQ(results[2], 0);
    const auto now = memory.bytes().subspan(4096);
    EXPECT_EQ(std::memcmp(now.data(), data.data() + 100, 4096), 0);
    EXPECT_EQ(now[4096], std::byte{0});
    EXPECT_EQ(now[8191], std::byte{0});
}

TEST_F(SocketWireTest, TheServerCloses) {
    std::vector<std::byte> data(512);
    send(Command::read, Buffer::memory(data.data(), 512));
    ring.run_once();
    server.reset();
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size(), 1U);
    wire->send(*waiting.begin()->second);  // nobody hears it
}

TEST_F(SocketWireTest, TheServerClosesWhileARequestLeaves) {
    constexpr std::uint32_t length = 16 << 20;
    std::vector<std::byte> data(length);
    send(Command::write, Buffer::memory(data.data(), length));
    ring.run_once();
    server.reset();
    const int code = end();
    EXPECT_TRUE(code == ECONNRESET || code == EPIPE) << code;
    EXPECT_EQ(waiting.size(), 1U);
}

TEST_F(SocketWireTest, TheServerBreaksTheProtocol) {
    answer(Stream().simple(77));
    EXPECT_EQ(end(), EPROTO);
}

TEST_F(SocketWireTest, HangUp) {
    wire->hang_up();
    EXPECT_EQ(end(), ECONNRESET);
}

TEST_F(SocketWireTest, CancelledItSaysGoodbye) {
    ring.cancel();
    EXPECT_EQ(end(), ECANCELED);
    wire->say_goodbye();
    const auto expected = encode({.command = Command::disconnect});
    const auto bytes = take(kRequestBytes);
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), kRequestBytes), 0);
}

TEST_F(SocketWireTest, NoGoodbyeInTheMiddleOfAMessage) {
    constexpr std::uint32_t length = 16 << 20;
    std::vector<std::byte> data(length);
    send(Command::write, Buffer::memory(data.data(), length));
    ring.run_once();
    ring.cancel();
    EXPECT_EQ(end(), ECANCELED);
    const std::size_t sent = unread();
    EXPECT_LT(sent, length);
    wire->say_goodbye();
    EXPECT_EQ(unread(), sent);
}

}  // namespace
}  // namespace ashlar::nbd
