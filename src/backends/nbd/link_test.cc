#include "backends/nbd/link.h"

#include <gtest/gtest.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/nbd/test_server.h"
#include "interop/nbdkit.h"
#include "support/ring_runner.h"

namespace ashlar::nbd {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Kind = NbdEvent::Kind;

constexpr std::uint64_t kSize = 1 << 20;

class LinkTest : public testing::Test {
protected:
    ~LinkTest() override {
        if (link == nullptr) return;
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        link->close();
    }

    void serve(std::uint64_t size = kSize, std::vector<std::string> more = {}) {
        {
            std::ofstream(server.path("disk"), std::ios::app).close();
        }
        std::filesystem::resize_file(server.path("disk"), size);
        more.insert(more.end(), {"file", server.path("disk")});
        server.start_nbdkit(std::move(more));
    }
    void open(std::chrono::milliseconds reconnect, std::chrono::milliseconds timeout = 5s) {
        open(server.uri(), reconnect, timeout);
    }
    void open(const std::string& uri, std::chrono::milliseconds reconnect,
              std::chrono::milliseconds timeout) {
        options = {.uri = uri, .reconnect = reconnect, .timeout = timeout};
        options.on_event = [this](const NbdEvent& event) {
            events.push_back(event.kind);
            texts.push_back(event.text);
        };
        const std::atomic<bool> never = false;
        auto connection = connect(options.uri, 5s, never);
        ASSERT_TRUE(connection) << connection.error().message();
        about = connection->about;
        link = std::make_unique<Link>(ring.io(), options, about, std::move(*connection));
    }

    // A coroutine of its own for each call, as a request's is.
    Task<> ask(Io&, Command command, std::uint64_t offset = 0, std::uint32_t length = 0,
               std::byte* data = nullptr) {
        Call call{.command = command,
                  .offset = offset,
                  .length = length,
                  .buffer = Buffer::memory(data, data != nullptr ? length : 0)};
        co_return co_await link->answer(call);
    }
    int write(std::uint64_t offset, int content) {
        std::vector<std::byte> data(512, static_cast<std::byte>(content));
        return ring.run(ask(ring.io(), Command::write, offset, 512, data.data())).error();
    }
    // The errno, or what the first byte is, negative.
    int read(std::uint64_t offset) {
        std::vector<std::byte> data(512);
        const auto result = ring.run(ask(ring.io(), Command::read, offset, 512, data.data()));
        return result.ok() ? -std::to_integer<int>(data[0]) : result.error();
    }
    void run_for(std::chrono::milliseconds time) {
        EXPECT_TRUE(ring.run(wait(ring.io(), time)).ok());
    }
    static Task<> wait(Io& io, std::chrono::milliseconds time) {
        const IoResult slept = co_await io.sleep(time);
        co_return slept;
    }
    bool told(Kind kind) const { return std::ranges::find(events, kind) != events.end(); }

    test::NbdServer server;
    test::RingRunner ring;
    NbdOptions options;
    Export about;
    std::vector<Kind> events;
    std::vector<std::string> texts;  // of the events
    std::unique_ptr<Link> link;
};

TEST_F(LinkTest, AsksAndAnswers) {
    serve();
    open(0ms);
    EXPECT_EQ(write(4096, 7), 0);
    EXPECT_EQ(read(4096), -7);
    EXPECT_EQ(ring.run(ask(ring.io(), Command::flush)).error(), 0);
    EXPECT_EQ(read(kSize), EINVAL) << "what the server refuses";
    EXPECT_EQ(read(4096), -7);
    EXPECT_TRUE(events.empty());
}

TEST_F(LinkTest, WithoutReconnectALostConnectionIsTheEnd) {
    serve();
    open(0ms);
    server.kill();
    EXPECT_EQ(read(0), ECONNRESET);
    EXPECT_EQ(read(0), ECONNRESET);
    serve();
    EXPECT_EQ(read(0), ECONNRESET);
    EXPECT_EQ(events, std::vector{Kind::lost});
}

TEST_F(LinkTest, AskedAgainOnTheNextConnection) {
    serve();
    open(20s);
    EXPECT_EQ(write(0, 9), 0);
    for (int round = 0; round < 3; ++round) {
        server.kill();
        std::vector<std::byte> data(512 * 8);
        std::vector<Task<>> reads;
        for (std::uint64_t i = 0; i < 8; ++i) {
            reads.push_back(ask(ring.io(), Command::read, i * 512, 512, data.data() + i * 512));
        }
        run_for(50ms);
        EXPECT_FALSE(reads.front().done());
        serve();
        for (Task<>& one : reads) EXPECT_EQ(ring.run(std::move(one)).error(), 0);
        EXPECT_EQ(data[0], std::byte{9});
        EXPECT_EQ(data[512], std::byte{0});
    }
    EXPECT_TRUE(told(Kind::back));
    EXPECT_FALSE(told(Kind::overdue));
}

TEST_F(LinkTest, RequestsWaitNoLongerThanTheyShall) {
    serve();
    open(300ms);
    server.kill();
    const auto begun = Clock::now();
    EXPECT_EQ(read(0), ETIMEDOUT);
    EXPECT_GE(Clock::now() - begun, 290ms);
    std::byte data[512];
    const Task<> late = ask(ring.io(), Command::read, 0, 512, data);
    EXPECT_TRUE(late.done()) << "those that come later do not wait at all";
    EXPECT_EQ(late.result().error(), ETIMEDOUT);
    EXPECT_TRUE(told(Kind::overdue));
    serve();
    ring.run_until([&] {
        run_for(10ms);
        return told(Kind::back);
    });
    EXPECT_EQ(write(0, 3), 0);
    EXPECT_EQ(read(0), -3);
}

TEST_F(LinkTest, AnotherExportIsNotTheSame) {
    serve();
    open(1s);
    server.kill();
    serve(kSize / 2);
    EXPECT_EQ(read(0), ETIMEDOUT);
    EXPECT_TRUE(told(Kind::failed));
}

TEST_F(LinkTest, ALargerExportIs) {
    serve();
    open(5s);
    server.kill();
    serve(2 * kSize);
    EXPECT_EQ(read(0), 0);
    EXPECT_TRUE(told(Kind::resized));
}

TEST_F(LinkTest, CancelEndsWhatWaits) {
    serve();
    open(1h);
    server.signal(SIGSTOP);
    std::byte data[512];
    Task<> waiting = ask(ring.io(), Command::read, 0, 512, data);
    run_for(20ms);
    EXPECT_FALSE(waiting.done());
    link->cancel();
    EXPECT_FALSE(waiting.done()) << "the connection may still be using its buffer";
    EXPECT_EQ(ring.run(std::move(waiting)).error(), ECANCELED);
    EXPECT_EQ(read(0), ECANCELED);
    server.signal(SIGCONT);
}

TEST_F(LinkTest, CancelEndsWhatWaitsForAConnection) {
    serve();
    open(1h, 1h);
    server.kill();
    std::byte data[512];
    Task<> waiting = ask(ring.io(), Command::read, 0, 512, data);
    run_for(50ms);
    link->cancel();
    EXPECT_TRUE(waiting.done());
    EXPECT_EQ(waiting.result().error(), ECANCELED);
}

// ---- With a server that does what the test says ------------------------------------------------

class ScriptedLinkTest : public LinkTest {
protected:
    ~ScriptedLinkTest() override { finish(); }

    void open_to(TestServer::Serve serve, std::chrono::milliseconds reconnect,
                 std::chrono::milliseconds timeout = 5s,
                 TestServer::Family family = TestServer::Family::local) {
        scripted = std::make_unique<TestServer>(kSize, std::move(serve), false, family);
        open(scripted->uri(), reconnect, timeout);
    }
    // As a session ends. False: it took longer than it may.
    bool finish() {
        if (link == nullptr) return true;
        const auto begun = Clock::now();
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        link->close();
        link.reset();
        return Clock::now() - begun < 1s;
    }

    std::unique_ptr<TestServer> scripted;
};

constexpr int kContent = -0x5a;  // what read() says of the server's disk

TEST_F(ScriptedLinkTest, WhatIsAskedAgainKeepsItsOrder) {
    using Asked = std::pair<Command, std::uint64_t>;
    std::vector<Asked> first;
    std::vector<Asked> second;
    const auto serve = [&](Peer& peer, unsigned index) {
        for (int i = 0; i < (index == 0 ? 20 : 19); ++i) {
            const auto asked = peer.request();
            if (!asked) return;
            (index == 0 ? first : second).emplace_back(asked->header.command, asked->header.offset);
            // Of the first five, two are answered.
            if (index == 0 && (i == 1 || i == 4)) peer.answer(*asked);
            if (index == 1) peer.answer(*asked);
        }
        if (index == 1) peer.answer_all();
    };
    open_to(serve, 20s);
    std::vector<std::byte> data(512 * 20, std::byte{1});
    std::vector<Task<>> tasks;
    for (std::uint64_t i = 0; i < 20; ++i) {
        const Command command = i % 3 == 0 ? Command::write : Command::read;
        tasks.push_back(ask(ring.io(), command, i * 512, 512, data.data() + i * 512));
    }
    for (Task<>& one : tasks) EXPECT_EQ(ring.run(std::move(one)).error(), 0);
    EXPECT_EQ(read(0), kContent);
    EXPECT_TRUE(finish());
    scripted.reset();
    ASSERT_EQ(first.size(), 20U);
    first.erase(first.begin() + 4);
    first.erase(first.begin() + 1);
    ASSERT_EQ(second.size(), 19U) << "18 again, and one later";
    second.resize(18);
    EXPECT_EQ(first, second);
    EXPECT_EQ(data[19 * 512], std::byte{0x5a});
    EXPECT_EQ(events, (std::vector{Kind::lost, Kind::back}));
}

// Half of a read had come, from a disk that was another then.
TEST_F(ScriptedLinkTest, HalfAnAnswerCountsForNothing) {
    const auto serve = [&](Peer& peer, unsigned index) {
        if (index > 0) return peer.answer_all();
        const auto asked = peer.request();
        if (!asked) return;
        peer.say(Stream().simple(asked->header.cookie).data(std::vector<std::byte>(300)));
    };
    open_to(serve, 5s);
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(scripted->connections(), 2U);
}

TEST_F(ScriptedLinkTest, ASilentServerIsNotWaitedFor) {
    const auto serve = [&](Peer& peer, unsigned) {
        const auto asked = peer.request();
        if (asked) peer.answer(*asked);
        while (peer.request()) {
        }
    };
    open_to(serve, 0ms, 200ms);
    EXPECT_EQ(read(0), kContent);
    run_for(500ms);
    EXPECT_TRUE(events.empty()) << "one that is not asked may be silent";
    const auto begun = Clock::now();
    EXPECT_EQ(read(0), ETIMEDOUT);
    EXPECT_GE(Clock::now() - begun, 190ms);
    EXPECT_LT(Clock::now() - begun, 1s);
}

// One answer may take longer than a silence may, while others come all the time.
TEST_F(ScriptedLinkTest, AServerThatIsBusyIsNotSilent) {
    const auto serve = [&](Peer& peer, unsigned) {
        std::optional<Peer::Asked> flush;
        const auto begun = Clock::now();
        while (const auto asked = peer.request()) {
            if (asked->header.command == Command::flush) {
                flush = asked;
                continue;
            }
            peer.answer(*asked);
            if (flush && Clock::now() - begun > 2s) {
                peer.answer(*flush);
                flush.reset();
            }
        }
    };
    open_to(serve, 0ms, 1s);
    Task<> flushing = ask(ring.io(), Command::flush);
    while (!flushing.done() && read(0) == kContent) run_for(5ms);
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(ring.run(std::move(flushing)).error(), 0);
    EXPECT_TRUE(events.empty());
}

// Each connection has the whole time to answer, not what the one before it has left.
TEST_F(ScriptedLinkTest, AfterASilentServerOneThatIsSlow) {
    const auto serve = [&](Peer& peer, unsigned index) {
        while (const auto asked = peer.request()) {
            if (index == 0) continue;
            std::this_thread::sleep_for(250ms);
            peer.answer(*asked);
        }
    };
    open_to(serve, 20s, 400ms);
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(scripted->connections(), 2U);
    EXPECT_EQ(events, (std::vector{Kind::lost, Kind::back}));
}

// A server that has one client at a time waits for the end of the connection that was refused.
TEST_F(ScriptedLinkTest, TheConnectionToAnotherExportIsLetGo) {
    const auto serve = [&](Peer& peer, unsigned index) {
        if (index > 0) return peer.answer_all();
        [[maybe_unused]] const auto asked = peer.request();
        scripted->set_size(kSize / 2);
    };
    open_to(serve, 1h, 5s);
    std::vector<std::byte> data(512);
    Task<> reading = ask(ring.io(), Command::read, 0, 512, data.data());
    // Of two that were refused, the first has ended.
    ring.run_until([&] {
        run_for(5ms);
        return scripted->connections() >= 4;
    });
    scripted->set_size(kSize);
    EXPECT_EQ(ring.run(std::move(reading)).error(), 0);
    EXPECT_EQ(data[0], std::byte{0x5a});
    EXPECT_EQ(events, (std::vector{Kind::lost, Kind::failed, Kind::back})) << texts.back();
    EXPECT_NE(texts[1].find("not what it was"), std::string::npos) << texts[1];
}

TEST_F(ScriptedLinkTest, AServerThatShutsDownIsLeft) {
    const auto serve = [&](Peer& peer, unsigned index) {
        if (index > 0) return peer.answer_all();
        while (const auto asked = peer.request()) {
            peer.say(Stream().simple(asked->header.cookie, 108));
        }
    };
    open_to(serve, 5s);
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(scripted->connections(), 2U);
    EXPECT_EQ(events, (std::vector{Kind::lost, Kind::back}));
}

TEST_F(ScriptedLinkTest, WithoutReconnectAShutdownIsAnAnswer) {
    const auto serve = [&](Peer& peer, unsigned) {
        while (const auto asked = peer.request()) {
            peer.say(Stream().simple(asked->header.cookie, 108));
        }
    };
    open_to(serve, 0ms);
    EXPECT_EQ(read(0), ESHUTDOWN);
    EXPECT_TRUE(events.empty());
}

TEST_F(ScriptedLinkTest, ALiarIsLeft) {
    const auto serve = [&](Peer& peer, unsigned index) {
        if (index > 0) return peer.answer_all();
        if (peer.request()) peer.say(Stream().simple(0x1234'5678'9abc'def0));
        while (peer.request()) {
        }
    };
    open_to(serve, 5s);
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(scripted->connections(), 2U);
}

// Across a network a shutdown alone does not reach a server that is saying more than is read; one
// that serves one client after the other would never come to the next.
TEST_F(ScriptedLinkTest, ALiarThatGoesOnTalkingIsLeft) {
    const auto serve = [](Peer& peer, unsigned index) {
        if (index > 0) return peer.answer_all();
        while (peer.say(Stream().data(std::vector<std::byte>(1 << 20)))) {
        }
    };
    open_to(serve, 20s, 20s, TestServer::Family::tcp);
    std::this_thread::sleep_for(100ms);  // by now nothing more goes into the connection
    EXPECT_EQ(read(0), kContent);
    EXPECT_EQ(events, (std::vector{Kind::lost, Kind::back}));
    EXPECT_TRUE(finish());
}

TEST_F(ScriptedLinkTest, WithoutReconnectALiarIsTheEnd) {
    const auto serve = [&](Peer& peer, unsigned) {
        if (peer.request()) peer.say(Stream().simple(7));
        while (peer.request()) {
        }
    };
    open_to(serve, 0ms);
    EXPECT_EQ(read(0), EPROTO);
    EXPECT_EQ(read(0), EPROTO);
    EXPECT_EQ(events, std::vector{Kind::lost});
}

// Connecting works, and nothing else does: that is no connection, and not tried without end.
TEST_F(ScriptedLinkTest, AServerThatAlwaysHangsUp) {
    open_to([](Peer& peer, unsigned) { peer.request(); }, 1500ms);
    const auto begun = Clock::now();
    EXPECT_EQ(read(0), ETIMEDOUT);
    EXPECT_LT(Clock::now() - begun, 4s);
    EXPECT_TRUE(told(Kind::overdue));
    EXPECT_LT(scripted->connections(), 30U);
}

TEST_F(ScriptedLinkTest, AnIdleConnectionThatIsAlwaysLostIsNotMadeWithoutRest) {
    open_to([](Peer&, unsigned) {}, 10s);
    run_for(600ms);
    EXPECT_LT(scripted->connections(), 30U);
    ring.run_until([&] {  // a busy machine may take its time
        run_for(5ms);
        return scripted->connections() > 1;
    });
    EXPECT_FALSE(told(Kind::overdue));
}

TEST_F(ScriptedLinkTest, ItEndsWhileItConnects) {
    open_to([](Peer& peer, unsigned) { peer.request(); }, 1h, 1h);
    scripted->set_greets(false);
    std::byte data[512];
    Task<> waiting = ask(ring.io(), Command::read, 0, 512, data);
    ring.run_until([&] {
        run_for(5ms);
        return scripted->connections() == 2;
    });
    const auto begun = Clock::now();
    link->cancel();
    EXPECT_EQ(ring.run(std::move(waiting)).error(), ECANCELED);
    EXPECT_EQ(read(0), ECANCELED);
    EXPECT_LT(Clock::now() - begun, 1s);
    EXPECT_TRUE(finish());
}

TEST_F(ScriptedLinkTest, ItEndsWithAGoodbye) {
    std::vector<Command> commands;
    const auto serve = [&](Peer& peer, unsigned) {
        while (const auto asked = peer.request()) {
            commands.push_back(asked->header.command);
            if (asked->header.command != Command::disconnect) peer.answer(*asked);
        }
    };
    open_to(serve, 5s);
    EXPECT_EQ(read(0), kContent);
    EXPECT_TRUE(finish());
    scripted.reset();
    EXPECT_EQ(commands, (std::vector{Command::read, Command::disconnect}));
}

}  // namespace
}  // namespace ashlar::nbd
