#include <atomic>
#include <coroutine>
#include <deque>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/group_commit.h>

#include "support/ring_runner.h"

namespace ashlar {
namespace {

// Syncs that begin when they are asked for, are counted, and end when the test says so.
class HeldSyncs {
public:
    struct Sync {
        HeldSyncs& syncs;
        std::coroutine_handle<> waiter = nullptr;
        IoResult result{};

        static bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<> frame) noexcept {
            waiter = frame;
            ++syncs.begun;
            syncs.running_.push_back(this);
        }
        [[nodiscard]] IoResult await_resume() const noexcept { return result; }
    };

    auto begin() {
        return [this](Io&) { return Sync{.syncs = *this}; };
    }
    void end(IoResult result = {}) {
        Sync* sync = running_.front();
        running_.pop_front();
        sync->result = result;
        sync->waiter.resume();
    }
    [[nodiscard]] std::size_t running() const { return running_.size(); }

    int begun = 0;

private:
    std::deque<Sync*> running_;
};

class GroupCommitTest : public testing::Test {
protected:
    Task<> flush() { return commit.flush(ring.io(), syncs.begin()); }
    std::vector<Task<>> flushes(std::size_t count) {
        std::vector<Task<>> tasks;
        tasks.reserve(count);
        for (std::size_t i = 0; i < count; ++i) tasks.push_back(flush());
        return tasks;
    }
    static std::size_t done(const std::vector<Task<>>& tasks) {
        std::size_t count = 0;
        for (const Task<>& task : tasks) count += task.done() ? 1 : 0;
        return count;
    }

    test::RingRunner ring;
    HeldSyncs syncs;
    std::atomic<int> lost{0};
    GroupCommit commit{lost};
};

TEST_F(GroupCommitTest, OneFlushAloneIsOneSync) {
    for (int i = 1; i <= 3; ++i) {
        const Task<> task = flush();
        EXPECT_EQ(syncs.begun, i);
        EXPECT_FALSE(task.done());
        syncs.end();
        ASSERT_TRUE(task.done());
        EXPECT_TRUE(task.result().ok());
        EXPECT_EQ(syncs.running(), 0U);
    }
}

TEST_F(GroupCommitTest, FlushesThatWaitTogetherShareTheNextSync) {
    const Task<> first = flush();
    const auto others = flushes(10);
    EXPECT_EQ(syncs.begun, 1);
    EXPECT_EQ(done(others), 0U);
    syncs.end();
    EXPECT_TRUE(first.done());
    EXPECT_EQ(done(others), 0U) << "they came after the first sync began: it is not theirs";
    EXPECT_EQ(syncs.begun, 2);
    syncs.end();
    EXPECT_EQ(done(others), 10U);
    for (const Task<>& task : others) EXPECT_TRUE(task.result().ok());
    EXPECT_EQ(syncs.begun, 2) << "eleven flushes, two syncs";
    EXPECT_EQ(syncs.running(), 0U);
}

TEST_F(GroupCommitTest, NoneSharesASyncThatBeganBeforeIt) {
    const Task<> first = flush();
    const Task<> second = flush();
    syncs.end();  // the second's begins
    const Task<> third = flush();
    EXPECT_EQ(syncs.begun, 2);
    syncs.end();
    EXPECT_TRUE(second.done());
    EXPECT_FALSE(third.done());
    EXPECT_EQ(syncs.begun, 3);
    syncs.end();
    EXPECT_TRUE(third.done());
}

TEST_F(GroupCommitTest, NeverRunsTwoAtOnce) {
    std::vector<Task<>> tasks;
    for (int round = 0; round < 50; ++round) {
        for (int i = 0; i <= round % 4; ++i) tasks.push_back(flush());
        EXPECT_EQ(syncs.running(), 1U);
        syncs.end();
        EXPECT_LE(syncs.running(), 1U);
    }
    while (syncs.running() > 0) syncs.end();
    EXPECT_EQ(done(tasks), tasks.size());
    EXPECT_LE(syncs.begun, 51);
}

TEST_F(GroupCommitTest, AnErrorReachesAllThatShareIt) {
    const Task<> first = flush();
    const auto others = flushes(3);
    syncs.end();
    syncs.end(IoResult::from_errno(EIO));
    EXPECT_TRUE(first.result().ok()) << "its own sync went well";
    ASSERT_EQ(done(others), 3U);
    for (const Task<>& task : others) EXPECT_EQ(task.result().error(), EIO);
}

TEST_F(GroupCommitTest, AfterAFailedSyncEveryFlushFailsWithoutAnother) {
    const Task<> first = flush();
    const auto waiting = flushes(3);
    syncs.end(IoResult::from_errno(ENOSPC));
    EXPECT_EQ(first.result().error(), ENOSPC);
    ASSERT_EQ(done(waiting), 3U) << "the next sync would say that all is well";
    for (const Task<>& task : waiting) EXPECT_EQ(task.result().error(), ENOSPC);
    for (int i = 0; i < 3; ++i) {
        const Task<> later = flush();
        ASSERT_TRUE(later.done());
        EXPECT_EQ(later.result().error(), ENOSPC);
    }
    EXPECT_EQ(syncs.begun, 1);
}

TEST_F(GroupCommitTest, TheSessionsOfADiskShareItsFailure) {
    GroupCommit other(lost);
    HeldSyncs others_syncs;
    const Task<> ours = flush();
    const Task<> theirs = other.flush(ring.io(), others_syncs.begin());
    syncs.end(IoResult::from_errno(EIO));
    others_syncs.end();
    EXPECT_EQ(ours.result().error(), EIO);
    EXPECT_EQ(theirs.result().error(), EIO) << "what was lost may be what it had to cover";
    const Task<> later = other.flush(ring.io(), others_syncs.begin());
    ASSERT_TRUE(later.done());
    EXPECT_EQ(later.result().error(), EIO);
}

TEST_F(GroupCommitTest, TheFirstErrorIsTheOneThatStays) {
    GroupCommit other(lost);
    const Task<> ours = flush();
    const Task<> theirs = other.flush(ring.io(), syncs.begin());
    syncs.end(IoResult::from_errno(EIO));
    syncs.end(IoResult::from_errno(ENOSPC));
    EXPECT_EQ(theirs.result().error(), ENOSPC);
    EXPECT_EQ(lost.load(), EIO);
}

TEST_F(GroupCommitTest, ACancelledSyncIsNoLoss) {
    const Task<> task = flush();
    syncs.end(IoResult::from_errno(ECANCELED));
    EXPECT_EQ(task.result().error(), ECANCELED);
    const Task<> later = flush();
    EXPECT_EQ(syncs.begun, 2);
    syncs.end();
    EXPECT_TRUE(later.result().ok());
}

TEST_F(GroupCommitTest, AnInterruptedSyncIsBegunAgain) {
    const Task<> task = flush();
    syncs.end(IoResult::from_errno(EINTR));
    EXPECT_FALSE(task.done());
    syncs.end(IoResult::from_errno(EAGAIN));
    EXPECT_FALSE(task.done());
    EXPECT_EQ(syncs.begun, 3);
    syncs.end();
    EXPECT_TRUE(task.result().ok());
}

}  // namespace
}  // namespace ashlar
