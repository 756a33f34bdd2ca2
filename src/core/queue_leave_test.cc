// How a queue ends whose device goes on with another server.
#include <gtest/gtest.h>

#include <cerrno>

#include "core/queue.h"
#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

// Waits in one operation of Io for each request.
class SlowSession final : public Session {
public:
    Task<> serve(Io& io, const Request& request) override {
        if (request.op == Op::flush) return IoResult{};
        return slowly(io, request);
    }

private:
    static Task<> slowly(Io& io, const Request& request) {
        const IoResult slept = co_await io.sleep(std::chrono::seconds(1));
        if (!slept.ok()) co_return slept;
        co_return IoResult::bytes(request.length);
    }
};

class QueueLeave : public test::QueueFixture {
protected:
    // The owner is told a round after the last of what it waits for.
    [[nodiscard]] int lefts() {
        for (int round = 0; round < 3; ++round) {
            static_cast<void>(reactor.run_once(std::chrono::milliseconds(0)));
        }
        return owner->lefts;
    }
    [[nodiscard]] bool answer_one() {
        return reactor.complete_first(test::FakeReactor::Kind::submission, -ETIME);
    }
};

TEST_F(QueueLeave, AnIdleQueueLeavesAtOnce) {
    start();
    queue->leave(Leaving::serving);
    EXPECT_EQ(lefts(), 1);
    EXPECT_TRUE(owner->homes.empty()) << "its fetches are with the kernel still";
    queue->fail(ECANCELED);
    EXPECT_TRUE(owner->failures.empty()) << "that its thread ends is no failure now";
}

TEST_F(QueueLeave, WhatIsInServiceIsAnsweredFirst) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 8, 8)));
    queue->leave(Leaving::serving);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(committed(0), 4096);
    EXPECT_EQ(lefts(), 0);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(committed(1), 4096);
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, ServingItServesWhatStillComes) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    queue->leave(Leaving::serving);
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_flush)));
    EXPECT_EQ(committed(1), 0);
    EXPECT_EQ(lefts(), 0);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, HoldingItKeepsWhatStillComes) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    queue->leave(Leaving::holding);
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_flush)));
    EXPECT_EQ(reactor.find(0, 1), nullptr) << "not committed";
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(committed(0), 4096);
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, HoldingItKeepsWhatIsCutShort) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_write, 0, 8)));
    queue->leave(Leaving::holding);
    queue->cancel_requests();
    ASSERT_TRUE(reactor.complete_first(test::FakeReactor::Kind::submission, -ECANCELED));
    EXPECT_EQ(reactor.find(0, 0), nullptr) << "the next server gets it";
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, ServingItAnswersWhatIsCutShort) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_write, 0, 8)));
    queue->leave(Leaving::serving);
    queue->cancel_requests();
    ASSERT_TRUE(reactor.complete_first(test::FakeReactor::Kind::submission, -ECANCELED));
    EXPECT_EQ(committed(0), -ECANCELED);
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, AWriteThatWaitsForItsDataIsInService) {
    config.data_path = DataPath::get_data;
    start<SlowSession>();
    kernel.put(0, 0, make_descriptor(abi::io_op_write, 0, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_need_get_data));
    queue->leave(Leaving::holding);
    EXPECT_EQ(lefts(), 0) << "the driver has been asked for the data";
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_write, 0, 8)));
    EXPECT_EQ(lefts(), 1) << "and gives the request to the next server";
}

TEST_F(QueueLeave, TheThreadMayEndBetweenTheLastRequestAndTheRoundAfterIt) {
    start();
    queue->leave(Leaving::serving);
    queue->thread_ends();
    queue.reset();
    EXPECT_EQ(reactor.run_once(std::chrono::milliseconds(0)), ETIME) << "nobody is told of it";
}

// The driver may give everything back meanwhile, and a neighbour of its thread have it dropped.
TEST_F(QueueLeave, ItMayBeGoneBeforeTheRoundAfterIt) {
    start();
    queue->leave(Leaving::serving);
    reactor.begin_round();
    bring_home();
    ASSERT_EQ(owner->homes.size(), 1U);
    queue.reset();
    static_cast<void>(reactor.run_once(std::chrono::milliseconds(0)));
    EXPECT_EQ(owner->lefts, 0);
}

TEST_F(QueueLeave, TagsThatTheKernelGivesBackAreNotWaitedFor) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    queue->leave(Leaving::serving);
    for (std::uint16_t tag = 1; tag < config.depth; ++tag) {
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_abort));
    }
    EXPECT_EQ(lefts(), 0);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(lefts(), 1);
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_abort));
    EXPECT_EQ(owner->homes.size(), 1U) << "the driver may still end the last one";
}

TEST_F(QueueLeave, ABatchIsWaitedForUntilTheKernelHasIt) {
    config.commands = CommandStyle::batch;
    start<SlowSession>();
    using Kind = test::FakeReactor::Kind;
    ASSERT_TRUE(reactor.complete_first(Kind::batch_command, 0));
    kernel.put(0, 2, make_descriptor(abi::io_op_read, 0, 8));
    reactor.deliver({2});
    queue->leave(Leaving::serving);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(lefts(), 0);
    reactor.begin_round();
    const auto* commit = reactor.find(Kind::batch_command);
    ASSERT_NE(commit, nullptr);
    reactor.complete(reactor.place_of(*commit), commit->batch.nr_elem * commit->batch.elem_bytes);
    EXPECT_EQ(lefts(), 1);
}

TEST_F(QueueLeave, ACommitThatTheKernelRefusesAtFirstIsWaitedFor) {
    start<SlowSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    queue->leave(Leaving::serving);
    ASSERT_TRUE(answer_one());
    EXPECT_EQ(owner->lefts, 0) << "the commit is not submitted yet";
    reactor.begin_round();
    ASSERT_TRUE(reactor.complete_tag(0, 0, -EAGAIN));
    static_cast<void>(reactor.run_once(std::chrono::milliseconds(0)));
    EXPECT_EQ(owner->lefts, 0) << "and now once more";
    EXPECT_EQ(committed(0), 4096);
    EXPECT_EQ(lefts(), 1);
}

}  // namespace
}  // namespace ashlar
