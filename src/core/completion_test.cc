// Completions: what foreign threads finish reaches the queue's thread, by few wake-ups.
#include <sys/syscall.h>
#include <atomic>
#include <chrono>
#include <deque>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/io_scope.h"
#include "support/ring_runner.h"
#include "support/system_calls.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

// A task that awaits a completion, which `out` then names.
Task<> await_completion(Io& io, Completion*& out) {
    Completion done(io);
    out = &done;
    co_return co_await done;
}

class CompletionTest : public testing::Test {
protected:
    void start(std::size_t count) {
        completions.resize(count);
        for (Completion*& one : completions) tasks.push_back(await_completion(ring.io(), one));
    }
    [[nodiscard]] bool all_done() const {
        return std::ranges::all_of(tasks, [](const Task<>& task) { return task.done(); });
    }

    test::RingRunner ring;
    std::vector<Completion*> completions;
    std::deque<Task<>> tasks;
};

TEST_F(CompletionTest, CarriesItsResultFromAnotherThread) {
    start(2);
    std::jthread other([&] {
        completions[0]->complete(IoResult::bytes(42));
        completions[1]->complete(IoResult::from_errno(EIO));
    });
    ring.run_until([&] { return all_done(); });
    EXPECT_EQ(tasks[0].result(), IoResult::bytes(42));
    EXPECT_EQ(tasks[1].result().error(), EIO);
}

TEST_F(CompletionTest, ResumesOnTheQueuesThreadAndNotInTheCall) {
    start(1);
    std::jthread([&] {
        completions[0]->complete({});
        EXPECT_FALSE(tasks[0].done()) << "only a round resumes";
    }).join();
    EXPECT_FALSE(tasks[0].done());
    ring.run_until([&] { return all_done(); });
}

TEST_F(CompletionTest, EndsAWait) {
    start(1);
    std::jthread other([&] {
        std::this_thread::sleep_for(20ms);
        completions[0]->complete({});
    });
    // Nothing else would end this.
    ring.run_until([&] { return all_done(); });
}

TEST_F(CompletionTest, ThoseThatComeTogetherCostOneWakeUp) {
    start(1000);
    std::thread([&] {
        const test::SystemCallCounter writes(__NR_write);
        for (Completion* one : completions) one->complete({});
        EXPECT_EQ(writes.count(), 1U);
    }).join();
    const std::uint64_t before = ring.reactor().rounds();
    ring.run_until([&] { return all_done(); });
    EXPECT_LE(ring.reactor().rounds() - before, 2U);
}

TEST_F(CompletionTest, NoneOfManyThreadsIsLost) {
    constexpr std::size_t kThreads = 4;
    for (int repeat = 0; repeat < 20; ++repeat) {
        tasks.clear();
        start(1000);
        std::vector<std::jthread> threads;
        for (std::size_t thread = 0; thread < kThreads; ++thread) {
            threads.emplace_back([this, thread] {
                for (std::size_t i = thread; i < completions.size(); i += kThreads) {
                    completions[i]->complete(IoResult::bytes(i));
                }
            });
        }
        ring.run_until([&] { return all_done(); });
        for (std::size_t i = 0; i < tasks.size(); ++i) {
            ASSERT_EQ(tasks[i].result(), IoResult::bytes(i));
        }
    }
}

// What is awaited only after its end.
Task<> await_later(Io& io, std::chrono::nanoseconds time) {
    Completion done(io);
    done.complete(IoResult::bytes(7));
    if (time.count() > 0) static_cast<void>(co_await io.sleep(time));
    co_return co_await done;
}

TEST_F(CompletionTest, MayBeCompleteBeforeItIsAwaited) {
    EXPECT_EQ(ring.run(await_later(ring.io(), 0ns)), IoResult::bytes(7));
    EXPECT_EQ(ring.run(await_later(ring.io(), 20ms)), IoResult::bytes(7));
}

Task<> one_after_the_other(Io& io, int count, std::atomic<Completion*>& wanted) {
    for (int i = 0; i < count; ++i) {
        Completion done(io);
        wanted = &done;
        wanted.notify_one();
        const IoResult result = co_await done;
        if (!result.ok()) co_return result;
    }
    co_return IoResult::bytes(static_cast<std::uint64_t>(count));
}

TEST_F(CompletionTest, AWakeUpIsNeverLostWhenTheThreadGoesToSleep) {
    constexpr int kCount = 5000;
    std::atomic<Completion*> wanted = nullptr;
    Task<> task = one_after_the_other(ring.io(), kCount, wanted);
    std::jthread other([&] {
        for (int i = 0; i < kCount; ++i) {
            wanted.wait(nullptr);
            wanted.exchange(nullptr)->complete({});
        }
    });
    EXPECT_EQ(ring.run(std::move(task)).count(), std::uint64_t{kCount});
}

}  // namespace
}  // namespace ashlar
