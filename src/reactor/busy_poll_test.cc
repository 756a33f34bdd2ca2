#include "reactor/busy_poll.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "base/fd.h"
#include "reactor/reactor.h"

namespace ashlar {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(BusyPoll, ZeroIsNever) {
    EXPECT_FALSE(BusyPoll(microseconds(0)).wanted());
    EXPECT_TRUE(BusyPoll(microseconds(1)).wanted());
}

TEST(BusyPoll, ItsLimitIsInNanoseconds) {
    EXPECT_EQ(BusyPoll(milliseconds(1)).limit(), 1'000'000U);
}

// Of so many waits, how many looked; all of them found something, or none.
int looks(BusyPoll& poll, int waits, bool found) {
    int count = 0;
    for (int i = 0; i < waits; ++i) {
        if (!poll.is_turn()) continue;
        ++count;
        poll.looked(found);
    }
    return count;
}

TEST(BusyPoll, LooksBeforeEachWaitWhileItFindsSomething) {
    BusyPoll poll(microseconds(20));
    EXPECT_EQ(looks(poll, 1000, true), 1000);
}

TEST(BusyPoll, LooksLessAndLessInVain) {
    BusyPoll poll(microseconds(20));
    EXPECT_EQ(looks(poll, 1000, false), 10);
    EXPECT_EQ(looks(poll, 102'500, false), 100) << "and once in 1025 waits in the end";
}

TEST(BusyPoll, OneThatFindsSomethingBringsAllBack) {
    BusyPoll poll(microseconds(20));
    looks(poll, 100'000, false);
    int needed = 0;
    while (!poll.is_turn()) ++needed;
    EXPECT_LE(needed, 1024);
    poll.looked(true);
    EXPECT_EQ(looks(poll, 100, true), 100);
    EXPECT_EQ(looks(poll, 2, false), 1) << "a single one in vain costs one wait";
    EXPECT_TRUE(poll.is_turn());
}

// ---- A reactor that does so --------------------------------------------------------------------

struct Recorder final : Operation {
    void complete(std::int32_t res, std::uint32_t) noexcept override {
        ++calls;
        result = res;
    }
    int calls = 0;
    std::int32_t result = 0;
};

std::unique_ptr<Reactor> open_reactor(const ReactorOptions& options = {}) {
    auto reactor = open_uring_reactor(options);
    if (!reactor) throw std::runtime_error(reactor.error().message());
    return std::move(*reactor);
}

// One byte of a pipe, which another thread writes while the reactor waits for it.
struct LateByte {
    LateByte() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
        in = Fd(ends[0]);
        out = Fd(ends[1]);
    }
    // How often this thread slept until the byte was there.
    long sleeps_of(Reactor& reactor) {
        std::byte byte{};
        Recorder read;
        const Submission submission{
            .kind = Submission::Kind::read, .fd = in.get(), .buffer = Buffer::memory(&byte, 1)};
        reactor.submit(submission, read);
        std::atomic<bool> waits = false;
        std::thread writer([&] {
            while (!waits) std::this_thread::yield();
            std::this_thread::sleep_for(milliseconds(5));
            EXPECT_EQ(write(out.get(), "x", 1), 1);
        });
        const long before = sleeps();
        waits = true;
        while (read.calls == 0) EXPECT_EQ(reactor.run_once(std::nullopt), 0);
        const long after = sleeps();
        writer.join();
        EXPECT_EQ(read.result, 1);
        EXPECT_EQ(byte, std::byte{0x78});
        return after - before;
    }
    static long sleeps() {
        rusage usage{};
        getrusage(RUSAGE_THREAD, &usage);
        return usage.ru_nvcsw;
    }
    Fd in, out;
};

TEST(BusyPolledReactor, OthersSleepUntilThereIsWork) {
    auto reactor = open_reactor();
    EXPECT_GE(LateByte().sleeps_of(*reactor), 1);
}

TEST(BusyPolledReactor, LooksForWorkAndDoesNotSleep) {
    auto reactor = open_reactor({.busy_poll = std::chrono::minutes(1)});
    LateByte byte;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(byte.sleeps_of(*reactor), 0);
}

TEST(BusyPolledReactor, SleepsWhenTheLookWasInVain) {
    auto reactor = open_reactor({.busy_poll = std::chrono::microseconds(100)});
    LateByte byte;
    for (int i = 0; i < 3; ++i) EXPECT_GE(byte.sleeps_of(*reactor), 1);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
}

TEST(BusyPolledReactor, APostEndsALookToo) {
    auto reactor = open_reactor({.busy_poll = std::chrono::minutes(1)});
    for (int i = 0; i < 3; ++i) {
        std::atomic<bool> called = false;
        std::thread other([&] { reactor->post([&] { called = true; }); });
        while (!called) ASSERT_EQ(reactor->run_once(std::nullopt), 0);
        other.join();
    }
}

TEST(BusyPolledReactor, LooksForWhatAKernelThreadSubmits) {
    auto reactor = open_reactor(
        {.polling = SubmissionPolling{.idle = milliseconds(10)}, .busy_poll = milliseconds(10)});
    LateByte byte;
    for (int i = 0; i < 20; ++i) byte.sleeps_of(*reactor);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
}

}  // namespace
}  // namespace ashlar
