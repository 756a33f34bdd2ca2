#include "backends/nbd/socket_wire.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "backends/nbd/test_server.h"
#include "backends/nbd/test_wire.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar::nbd {
namespace {

using namespace std::chrono_literals;

class SocketWireTest : public testing::Test, public Caller {
protected:
    explicit SocketWireTest(bool structured = true) {
        // As a queue's thread has it: a registered buffer goes as write(2) does, with SIGPIPE.
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        server = Fd(ends[1]);
        wire = std::move(*open_socket_wire(Fd(ends[0]), structured, *this));
        running = wire->run(ring.io());
    }
    ~SocketWireTest() override {
        ring.cancel();
        ring.run_until([&] { return running.done() && ticking.done(); });
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
    // Lets the ring come back in a while though nothing else happens.
    void tick() {
        if (ticking.done()) ticking = sleep(ring.io());
    }
    static Task<> sleep(Io& io) {
        const IoResult slept = co_await io.sleep(100ms);
        co_return slept;
    }
    int end() {
        ring.run_until([&] { return running.done(); });
        return running.result().error();
    }

    void ask_at_random(unsigned seed, bool structured);

    test::RingRunner ring;
    Fd server;
    std::deque<Call> calls;
    std::map<std::uint64_t, Call*> waiting;
    std::map<std::uint64_t, int> results;
    std::unique_ptr<Wire> wire;
    Task<> running;
    Task<> ticking = sleep(ring.io());
};

// Reads are not answered in chunks.
class SimpleSocketWireTest : public SocketWireTest {
protected:
    SimpleSocketWireTest() : SocketWireTest(false) {}
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

// A server that does one thing after the other takes nothing while it cannot get its answer away.
TEST_F(SocketWireTest, AnswersComeWhileTheSameMessageLeaves) {
    constexpr std::uint32_t length = 4 << 20;
    auto data = pattern(length);
    std::vector<std::byte> in(length);
    send(Command::read, Buffer::memory(in.data(), length));
    send(Command::write, Buffer::memory(data.data(), length));
    std::thread thread([&] {
        Peer peer(server.get());
        EXPECT_TRUE(peer.request());
        EXPECT_TRUE(peer.say(Stream().data_chunk(1, 0, data, true)));
        EXPECT_TRUE(peer.request());
        EXPECT_TRUE(peer.say(Stream().none(2)));
    });
    const auto begun = std::chrono::steady_clock::now();
    const auto late = [&] { return std::chrono::steady_clock::now() - begun > 10s; };
    ring.run_until([&] {
        tick();
        return waiting.empty() || late();
    });
    EXPECT_TRUE(waiting.empty());
    if (!waiting.empty()) shutdown(server.get(), SHUT_RDWR);
    thread.join();
    EXPECT_TRUE(in == data);
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
    EXPECT_EQ(end(), ECONNRESET);
    EXPECT_EQ(waiting.size(), 1U);
}

TEST_F(SocketWireTest, TheServerClosesWhileARegisteredBufferLeaves) {
    constexpr std::uint32_t length = 4 << 20;
    test::RegisteredMemory memory(ring, length);
    send(Command::write, memory.buffer());
    ring.run_once();
    ring.run_once();
    std::thread closing([&] {
        take(100'000);
        server.reset();
    });
    EXPECT_EQ(end(), ECONNRESET);
    closing.join();
    EXPECT_EQ(waiting.size(), 1U);
}

TEST_F(SocketWireTest, TheServerBreaksTheProtocol) {
    std::vector<std::byte> data(512);
    send(Command::read, Buffer::memory(data.data(), 512));
    answer(Stream().simple(77));
    EXPECT_EQ(end(), EPROTO);
    EXPECT_EQ(waiting.size(), 1U);
    EXPECT_TRUE(results.empty());
    // The server hears of it.
    take(kRequestBytes);
    std::byte none{};
    EXPECT_EQ(recv(server.get(), &none, 1, 0), 0);
}

TEST_F(SocketWireTest, AnAnswerToWhatHasNotBegunToLeave) {
    std::vector<std::byte> data(16 << 20);
    send(Command::write, Buffer::memory(data.data(), 16 << 20));
    for (int i = 0; i < 64; ++i) send(Command::flush);
    answer(Stream().none(65));
    EXPECT_EQ(end(), EPROTO);
    EXPECT_TRUE(results.empty());
}

TEST_F(SocketWireTest, AnAnswerToWhatIsLeavingWaits) {
    constexpr std::uint32_t length = 16 << 20;
    std::vector<std::byte> data(length);
    send(Command::write, Buffer::memory(data.data(), length));
    send(Command::flush);
    answer(Stream().none(1).none(2));
    ring.run_once();
    ring.run_once();
    EXPECT_TRUE(results.empty());
    std::thread reader([&] { take(2 * kRequestBytes + length); });
    ring.run_until([&] { return waiting.empty() || running.done(); });
    reader.join();
    EXPECT_EQ(results, (std::map<std::uint64_t, int>{{1, 0}, {2, 0}}));
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
    take(sent);
    wire->say_goodbye();
    EXPECT_EQ(unread(), 0U);
}

// ---- Anything, against a server that does one thing after the other ---------------------------

constexpr std::uint32_t kSlot = 128 << 10;  // bytes of the disk that one call at a time is about
constexpr std::uint32_t kSlots = 24;

class RandomServer {
public:
    RandomServer(int socket, unsigned seed, bool structured)
        : socket_(socket), peer_(socket), random_(seed), structured_(structured) {}

    void run() {
        while (const auto asked = peer_.request()) {
            if (asked->header.command == Command::write) {
                std::ranges::copy(
                    asked->data, disk_.begin() + static_cast<std::ptrdiff_t>(asked->header.offset));
            }
            answers_.push_back(answer_to(asked->header));
            int more = 0;
            ioctl(socket_, FIONREAD, &more);
            if (more != 0 && random_() % 3 != 0) continue;
            std::ranges::shuffle(answers_, random_);
            for (const Stream& one : answers_) peer_.say(one);
            answers_.clear();
        }
    }

private:
    Stream answer_to(const RequestHeader& header) {
        Stream answer;
        if (header.command != Command::read) return answer.simple(header.cookie);
        const auto all = std::span(disk_).subspan(header.offset, header.length);
        if (!structured_) return answer.simple(header.cookie).data(all);
        const auto cut = static_cast<std::uint32_t>(random_() % header.length);
        if (cut != 0 && random_() % 2 == 0) {
            answer.data_chunk(header.cookie, header.offset + cut, all.subspan(cut), false)
                .data_chunk(header.cookie, header.offset, all.first(cut), false);
        } else if (std::ranges::count(all, std::byte{}) == header.length) {
            answer.hole(header.cookie, header.offset, header.length, false);
        } else {
            return answer.data_chunk(header.cookie, header.offset, all, true);
        }
        return answer.none(header.cookie);
    }

    const int socket_;
    Peer peer_;
    std::mt19937 random_;
    const bool structured_;
    std::vector<Stream> answers_;
    std::vector<std::byte> disk_ = std::vector<std::byte>(kSlot * kSlots);
};

class RandomCalls {
public:
    RandomCalls(test::RingRunner& ring, unsigned seed)
        : registered_(ring, kSlot * kSlots), random_(seed) {}

    // What to ask of a slot next. offset: in the disk.
    struct Next {
        Command command = Command::read;
        Buffer buffer{};
        std::uint64_t offset = 0;
    };
    Next next(std::uint32_t slot) {
        Asked& asked = asked_[slot];
        asked.command = random_() % 2 == 0 ? Command::read : Command::write;
        asked.registered = random_() % 2 == 0;
        const std::uint32_t most = random_() % 3 == 0 ? kSlot : 3000;
        asked.length = 1 + static_cast<std::uint32_t>(random_() % most);
        asked.begin = static_cast<std::uint32_t>(random_() % (kSlot - asked.length + 1));
        for (std::byte& byte : content(slot)) byte = static_cast<std::byte>(random_());
        const std::uint32_t at = slot * kSlot;
        return {.command = asked.command,
                .buffer = asked.registered ? registered_.buffer(at, asked.length)
                                           : Buffer::memory(&memory_[at], asked.length),
                .offset = at + asked.begin};
    }
    void check(std::uint32_t slot) {
        const Asked& asked = asked_[slot];
        const auto of_disk = std::span(disk_).subspan(slot * kSlot + asked.begin, asked.length);
        if (asked.command == Command::write) std::ranges::copy(content(slot), of_disk.begin());
        EXPECT_TRUE(std::ranges::equal(content(slot), of_disk))
            << "slot " << slot << (asked.registered ? " registered" : "");
    }

private:
    struct Asked {
        Command command = Command::read;
        bool registered = false;
        std::uint32_t begin = 0;
        std::uint32_t length = 0;
    };
    std::span<std::byte> content(std::uint32_t slot) {
        const auto all = asked_[slot].registered ? registered_.bytes() : std::span(memory_);
        return all.subspan(slot * kSlot, asked_[slot].length);
    }

    test::RegisteredMemory registered_;
    std::mt19937 random_;
    std::array<Asked, kSlots> asked_{};
    std::vector<std::byte> memory_ = std::vector<std::byte>(kSlot * kSlots);
    std::vector<std::byte> disk_ = std::vector<std::byte>(kSlot * kSlots);
};

void SocketWireTest::ask_at_random(unsigned seed, bool structured) {
    const int small = 4096;  // as little as the system allows, so that pieces are cut anywhere
    if (seed % 2 == 0) setsockopt(server.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    std::thread thread([&] { RandomServer(server.get(), seed, structured).run(); });
    RandomCalls random(ring, seed);
    std::array<Call*, kSlots> under_way{};
    const std::uint32_t slots = 1 + seed * 7 % kSlots;
    for (unsigned asked = 0; asked < 600 && !running.done();) {
        for (std::uint32_t slot = 0; slot < slots; ++slot) {
            Call*& call = under_way[slot];
            if (call != nullptr && waiting.contains(call->cookie)) continue;
            if (call != nullptr) random.check(slot);
            const auto next = random.next(slot);
            call = &send(next.command, next.buffer, next.offset);
            ++asked;
        }
        ring.run_once();
    }
    ring.run_until([&] { return waiting.empty() || running.done(); });
    EXPECT_FALSE(running.done());
    for (std::uint32_t slot = 0; slot < slots; ++slot) random.check(slot);
    for (const auto& [cookie, result] : results) EXPECT_EQ(result, 0);
    shutdown(server.get(), SHUT_RDWR);
    thread.join();
    EXPECT_EQ(end(), ECONNRESET);
}

TEST_F(SocketWireTest, AnythingOneAtATime) { ask_at_random(0, true); }
TEST_F(SocketWireTest, AnythingFewAtATime) { ask_at_random(9, true); }
TEST_F(SocketWireTest, AnythingManyAtATime) { ask_at_random(10, true); }
TEST_F(SimpleSocketWireTest, AnythingFewAtATime) { ask_at_random(8, false); }
TEST_F(SimpleSocketWireTest, AnythingManyAtATime) { ask_at_random(17, false); }

}  // namespace
}  // namespace ashlar::nbd
