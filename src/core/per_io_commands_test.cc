// A command for each request, over a reactor that the test plays.
#include <cerrno>
#include <memory>

#include <gtest/gtest.h>

#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

using PerIoCommandsTest = test::QueueFixture;

TEST_F(PerIoCommandsTest, AFetchForEachTagInOneSubmission) {
    config.index = 1;
    start();
    ASSERT_EQ(reactor.pending().size(), 4U);
    EXPECT_EQ(reactor.rounds(), 0U);
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        const auto* fetch = reactor.find(1, tag);
        ASSERT_NE(fetch, nullptr);
        EXPECT_EQ(fetch->opcode, abi::u_io_fetch_req);
        EXPECT_EQ(fetch->registration, 0U);
    }
}

TEST_F(PerIoCommandsTest, ACommitFetchesTheNextRequest) {
    start();
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_read, 0, 8)));
        EXPECT_EQ(committed(2), 4096);
        EXPECT_EQ(reactor.pending().size(), 4U) << "one command a tag";
    }
}

TEST_F(PerIoCommandsTest, LegacyOpcodesWhereTheKernelIsOld) {
    config.ioctl_commands = false;
    start();
    EXPECT_EQ(reactor.pending().at(0).opcode, abi::io_fetch_req);
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_NE(reactor.find(0, 0), nullptr);
    EXPECT_EQ(reactor.find(0, 0)->opcode, abi::io_commit_and_fetch_req);
}

// ---- Commands that fail -------------------------------------------------------------------------

TEST_F(PerIoCommandsTest, TheKernelMayAskForACommandOnceMore) {
    for (const int code : {EAGAIN, EINTR}) {
        test::FakeReactor& ring = reactor;
        owner = std::make_shared<test::RecordingOwner>();
        start();
        ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 0, 8)));
        for (std::uint16_t tag = 0; tag < 2; ++tag) {  // 0: a fetch, 1: a commit
            const auto before = *ring.find(0, tag);
            ASSERT_TRUE(ring.complete_tag(0, tag, -code));
            const auto* again = ring.find(0, tag);
            ASSERT_NE(again, nullptr);
            EXPECT_EQ(again->opcode, before.opcode);
            EXPECT_EQ(again->file, before.file);
            EXPECT_EQ(again->operation, before.operation);
            EXPECT_EQ(again->io.result, before.io.result);
            EXPECT_EQ(again->io.addr, before.io.addr);
        }
        EXPECT_TRUE(owner->failures.empty());
        EXPECT_EQ(owner->counted()[Op::read].count, 1U);
        bring_home();
        EXPECT_EQ(owner->homes.size(), 1U);
        queue.reset();
    }
}

TEST_F(PerIoCommandsTest, AnotherErrorFailsTheQueueOnceWithItsErrno) {
    config.index = 1;
    start();
    ASSERT_TRUE(reactor.complete_tag(1, 0, -EBADF));
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, EBADF);
    EXPECT_EQ(owner->failures[0].device, DeviceId{7});
    EXPECT_EQ(owner->failures[0].message(),
              "queue 1: fetch requests ublk7: (EBADF: Bad file descriptor)");
    for (std::uint16_t tag = 1; tag < 4; ++tag) {
        ASSERT_TRUE(reactor.complete_tag(1, tag, -EBADF));
    }
    queue->fail(ENOMEM);
    EXPECT_EQ(owner->failures.size(), 1U);
    EXPECT_TRUE(queue->home());
}

TEST_F(PerIoCommandsTest, AnAnswerThatMeansNothingFailsTheQueue) {
    start();
    ASSERT_TRUE(reactor.complete_tag(0, 0, 2));
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, EPROTO);
}

}  // namespace
}  // namespace ashlar
