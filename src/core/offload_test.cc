#include "core/offload.h"

#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "base/thread_scheduling.h"
#include "core/io_scope.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

template <class Call>
Task<> offload(Io& io, Call call) {
    co_return co_await io.offload(call);
}

// Calls wait in it until it is opened.
class Gate {
public:
    IoResult pass() noexcept {
        std::unique_lock lock(mutex_);
        ++inside_;
        most_ = std::max(most_, inside_);
        changed_.notify_all();
        changed_.wait(lock, [&] { return open_; });
        --inside_;
        return IoResult::bytes(++passed_);
    }
    void open() {
        const std::lock_guard lock(mutex_);
        open_ = true;
        changed_.notify_all();
    }
    void await_inside(std::size_t count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return inside_ >= count; });
    }
    [[nodiscard]] std::size_t passed() {
        const std::lock_guard lock(mutex_);
        return passed_;
    }
    [[nodiscard]] std::size_t most() {
        const std::lock_guard lock(mutex_);
        return most_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
    std::size_t inside_ = 0;
    std::size_t most_ = 0;  // ever inside at once
    std::size_t passed_ = 0;
};

class OffloadTest : public testing::Test {
protected:
    template <class Call>
    void start(Io& io, std::size_t count, Call call) {
        for (std::size_t i = 0; i < count; ++i) tasks.push_back(offload(io, call));
    }
    void await_all() {
        for (Task<>& task : tasks) ring.run_until([&] { return task.done(); });
    }

    test::RingRunner ring;
    std::deque<Task<>> tasks;
};

TEST_F(OffloadTest, RunsOnAnotherThreadAndResumesOnThisOne) {
    std::thread::id ran;
    const IoResult result = ring.run(offload(ring.io(), [&ran]() noexcept {
        ran = std::this_thread::get_id();
        return IoResult::bytes(9);
    }));
    EXPECT_EQ(result, IoResult::bytes(9));
    EXPECT_NE(ran, std::thread::id());
    EXPECT_NE(ran, std::this_thread::get_id());
    EXPECT_EQ(ring.run(offload(ring.io(), []() noexcept { return IoResult::from_errno(ENOSPC); }))
                  .error(),
              ENOSPC);
}

TEST_F(OffloadTest, ItsThreadsDoNotLetWakeUpsGatherBecauseTheirMakerDid) {
    ASSERT_TRUE(set_thread_turns(Turns::gathered));
    int policy = -1;
    EXPECT_TRUE(ring.run(offload(ring.io(),
                                 [&policy]() noexcept {
                                     policy = sched_getscheduler(0);
                                     return IoResult::bytes(0);
                                 }))
                    .ok());
    EXPECT_EQ(policy, SCHED_OTHER);
    EXPECT_TRUE(set_thread_turns(Turns::prompt));
}

TEST_F(OffloadTest, SeveralRunAtOnce) {
    std::barrier together(static_cast<std::ptrdiff_t>(OffloadPool::kThreadsMax));
    start(ring.io(), OffloadPool::kThreadsMax, [&together]() noexcept {
        together.arrive_and_wait();  // none passes alone
        return IoResult{};
    });
    await_all();
}

TEST_F(OffloadTest, TheQueuesThreadGoesOnMeanwhile) {
    Gate gate;
    start(ring.io(), 1, [&gate]() noexcept { return gate.pass(); });
    gate.await_inside(1);
    Task<> sleep = [](Io& io) -> Task<> { co_return co_await io.sleep(1ms); }(ring.io());
    ring.run_until([&] { return sleep.done(); });
    EXPECT_FALSE(tasks[0].done());
    EXPECT_FALSE(ring.scope().idle());
    gate.open();
    await_all();
    EXPECT_TRUE(ring.scope().idle());
}

TEST_F(OffloadTest, MoreThanThereAreThreadsWaitTheirTurnAndNoneIsLost) {
    Gate gate;
    start(ring.io(), 100, [&gate]() noexcept { return gate.pass(); });
    gate.await_inside(OffloadPool::kThreadsMax);
    EXPECT_EQ(gate.passed(), 0U);
    gate.open();
    await_all();
    EXPECT_EQ(gate.passed(), 100U);
    EXPECT_EQ(gate.most(), OffloadPool::kThreadsMax);
    for (const Task<>& task : tasks) EXPECT_TRUE(task.result().ok());
}

TEST_F(OffloadTest, AgainAndAgain) {
    for (int i = 0; i < 2000; ++i) {
        const IoResult result = ring.run(offload(
            ring.io(), [i]() noexcept { return IoResult::bytes(static_cast<std::uint64_t>(i)); }));
        ASSERT_EQ(result.count(), static_cast<std::uint64_t>(i));
    }
}

TEST_F(OffloadTest, CancellingWaitsForWhatRuns) {
    Gate gate;
    start(ring.io(), 6, [&gate]() noexcept { return gate.pass(); });
    gate.await_inside(OffloadPool::kThreadsMax);
    int idle = 0;
    ring.scope().on_idle([](void* count) noexcept { ++*static_cast<int*>(count); }, &idle);
    ring.cancel();
    EXPECT_FALSE(ring.scope().idle()) << "a call on another thread cannot be cancelled";
    EXPECT_EQ(idle, 0);
    gate.open();
    await_all();
    for (const Task<>& task : tasks) EXPECT_TRUE(task.result().ok()) << "it did run";
    EXPECT_EQ(idle, 1);
}

// ---- The end -----------------------------------------------------------------------------------

TEST_F(OffloadTest, TheEndOfTheRingWaitsForRunningCallsAndForgetsTheOthers) {
    Gate gate;
    start(ring.io(), 10, [&gate]() noexcept { return gate.pass(); });
    gate.await_inside(OffloadPool::kThreadsMax);
    ring.reactor().close();
    std::atomic<bool> opened = false;
    std::jthread opener([&] {
        std::this_thread::sleep_for(30ms);
        opened = true;
        gate.open();
    });
    ring.scope().thread_ends();
    EXPECT_TRUE(opened) << "a call that still ran would use memory that is gone";
    EXPECT_EQ(gate.passed(), OffloadPool::kThreadsMax) << "the others never began";
    for (const Task<>& task : tasks) EXPECT_FALSE(task.done());
    EXPECT_TRUE(ring.scope().idle());
    tasks.clear();
}

TEST_F(OffloadTest, ForgettingOneScopeLeavesTheOthersCallsInOrder) {
    std::optional<IoScope> gone(std::in_place, ring.reactor(), ring.offload());
    Arena arena(nullptr, 0);
    Io gone_io(arena, *gone);
    Gate gate;
    std::atomic<int> forgotten = 0;
    const auto count = [&forgotten]() noexcept {
        ++forgotten;
        return IoResult{};
    };
    const auto pass = [&gate]() noexcept { return gate.pass(); };
    start(ring.io(), OffloadPool::kThreadsMax, pass);
    gate.await_inside(OffloadPool::kThreadsMax);
    // Waiting: of the other scope first, in the middle and last.
    std::deque<Task<>> lost;
    lost.push_back(offload(gone_io, count));
    start(ring.io(), 1, pass);
    lost.push_back(offload(gone_io, count));
    start(ring.io(), 1, pass);
    lost.push_back(offload(gone_io, count));
    gone.reset();
    lost.clear();
    start(ring.io(), 1, pass);
    gate.open();
    await_all();
    EXPECT_EQ(gate.passed(), OffloadPool::kThreadsMax + 3);
    EXPECT_EQ(forgotten, 0);
}

TEST(OffloadPool, WithoutCallsHasNoThreadsAndEnds) {
    for (int i = 0; i < 1000; ++i) const OffloadPool pool;
}

}  // namespace
}  // namespace ashlar
