// One command for many tags, over a reactor that the test plays.
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;
using Kind = test::FakeReactor::Kind;
using Pending = test::FakeReactor::Pending;
using Tags = std::vector<std::uint16_t>;

constexpr std::uint16_t kHasAddress = 2;
constexpr std::uint16_t kFallback = 4;

// As the driver reads it.
struct Element {
    std::uint16_t tag = 0;
    std::uint16_t buffer = 0;
    std::int32_t result = 0;
    std::uint64_t address = 0;
};

std::vector<Element> elements_of(const Pending& batch) {
    std::vector<Element> elements(batch.batch.nr_elem);
    const std::size_t size = (batch.batch.flags & kHasAddress) != 0 ? 16 : 8;
    EXPECT_EQ(batch.batch.elem_bytes, size);
    for (std::size_t i = 0; i < elements.size(); ++i) {
        std::memcpy(&elements[i], batch.elements + i * size, size);
    }
    return elements;
}
Tags tags_of(const Pending& batch) {
    Tags tags;
    for (const Element& element : elements_of(batch)) tags.push_back(element.tag);
    return tags;
}

class BatchCommandsTest : public test::QueueFixture {
protected:
    BatchCommandsTest() { config.commands = CommandStyle::batch; }

    // The queue stands, its tags are prepared and its fetch waits.
    template <class S = test::RecordingSession>
    S& start_fetching() {
        S& session = start<S>();
        answer(0);
        return session;
    }
    // The batch commands that wait for their answer.
    std::vector<Pending> batches() {
        std::vector<Pending> found;
        for (const Pending& one : reactor.pending()) {
            if (one.kind == Kind::batch_command) found.push_back(one);
        }
        return found;
    }
    const Pending& only_batch() {
        EXPECT_EQ(batches().size(), 1U);
        const Pending* batch = reactor.find(Kind::batch_command);
        if (batch == nullptr) throw std::runtime_error("no batch");
        return *batch;
    }
    // The kernel answers the oldest batch.
    void answer(std::int32_t result) {
        if (!reactor.complete_first(Kind::batch_command, result)) {
            throw std::runtime_error("no batch");
        }
    }
    // The kernel answers the oldest batch: it took all of it.
    void take() { answer(bytes_of(*reactor.find(Kind::batch_command))); }
    static std::int32_t bytes_of(const Pending& batch) {
        return batch.batch.nr_elem * batch.batch.elem_bytes;
    }
    // The kernel delivers reads of 4096 bytes.
    void deliver_reads(const Tags& tags) {
        for (const std::uint16_t tag : tags) {
            kernel.put(config.index, tag, make_descriptor(abi::io_op_read, tag * 8U, 8));
        }
        reactor.deliver(tags);
    }
    void end_fetch(std::int32_t result) {
        ASSERT_TRUE(reactor.complete_first(Kind::batch_fetch, result));
    }
    bool fetches() { return reactor.find(Kind::batch_fetch) != nullptr; }
};

// ---- Preparing ---------------------------------------------------------------------------------

TEST_F(BatchCommandsTest, PreparesAllTagsInOneCommandThenFetches) {
    config.index = 2;
    start();
    ASSERT_EQ(reactor.pending().size(), 1U);
    const Pending& prepare = only_batch();
    EXPECT_EQ(prepare.opcode, abi::u_io_prep_io_cmds);
    EXPECT_EQ(reactor.files().at(prepare.file), kernel.device()->fd.get());
    EXPECT_EQ(prepare.batch.q_id, 2);
    EXPECT_EQ(prepare.batch.flags, kHasAddress);
    EXPECT_EQ(tags_of(prepare), (Tags{0, 1, 2, 3}));
    std::set<std::uint64_t> addresses;
    for (const Element& element : elements_of(prepare)) {
        EXPECT_EQ(element.address % 4096, 0U);
        addresses.insert(element.address);
    }
    ASSERT_EQ(addresses.size(), 4U);
    EXPECT_GE(*std::next(addresses.begin()) - *addresses.begin(), kIoMax);

    answer(0);
    ASSERT_EQ(reactor.pending().size(), 1U);
    const Pending& fetch = reactor.pending()[0];
    EXPECT_EQ(fetch.kind, Kind::batch_fetch);
    EXPECT_EQ(fetch.opcode, abi::u_io_fetch_io_cmds);
    EXPECT_EQ(fetch.batch.q_id, 2);
    EXPECT_EQ(fetch.batch.flags, 0);
    EXPECT_EQ(fetch.batch.nr_elem, 0);
    EXPECT_EQ(fetch.batch.elem_bytes, 2);
    EXPECT_FALSE(queue->home());
}

TEST_F(BatchCommandsTest, OnEveryDataPath) {
    struct Expected {
        DataPath path;
        std::uint16_t flags;
    };
    for (const Expected expected :
         {Expected{DataPath::copy, kHasAddress}, Expected{DataPath::user_copy, 0},
          Expected{DataPath::zero_copy, kFallback}, Expected{DataPath::zero_copy_manual, 0}}) {
        SCOPED_TRACE(name(expected.path));
        config.data_path = expected.path;
        static_cast<void>(reactor.reserve_buffers(3));
        const auto first = static_cast<std::uint16_t>(reactor.buffers_reserved());
        start();
        const Pending& prepare = only_batch();
        EXPECT_EQ(prepare.batch.flags, expected.flags);
        for (const Element& element : elements_of(prepare)) {
            if (expected.path == DataPath::zero_copy) {
                EXPECT_EQ(element.buffer, first + element.tag);
            }
            EXPECT_EQ(element.address != 0, expected.path == DataPath::copy);
        }
        answer(-EINVAL);
        queue.reset();
    }
}

TEST_F(BatchCommandsTest, APrepareThatIsRefusedFailsTheQueueAndLeavesItHome) {
    start();
    answer(-EINVAL);
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].operation, "queue 0: prepare tags");
    EXPECT_EQ(owner->failures[0].code, EINVAL);
    EXPECT_TRUE(queue->home());
    EXPECT_TRUE(reactor.pending().empty());
    queue.reset();
    EXPECT_EQ(reactor.groups_open(), 0);
    EXPECT_EQ(reactor.files_registered(), 0);
}

TEST_F(BatchCommandsTest, TheKernelMayAskForAPrepareOnceMore) {
    start();
    for (const int code : {EAGAIN, EINTR}) {
        answer(-code);
        EXPECT_EQ(only_batch().opcode, abi::u_io_prep_io_cmds);
        EXPECT_EQ(tags_of(only_batch()), (Tags{0, 1, 2, 3}));
    }
    answer(0);
    EXPECT_TRUE(fetches());
    EXPECT_TRUE(owner->failures.empty());
}

TEST_F(BatchCommandsTest, WithoutBuffersToFetchIntoTheQueueDoesNotOpen) {
    reactor.refuse_groups(ENOMEM);
    auto opened =
        open(std::make_shared<test::SessionBackend>(std::make_unique<test::RecordingSession>()));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENOMEM);
    EXPECT_EQ(reactor.files_registered(), 0);
    EXPECT_EQ(owner->closed, 1);
}

// ---- Fetching ----------------------------------------------------------------------------------

TEST_F(BatchCommandsTest, OneCompletionDeliversSeveralRequests) {
    auto& session = start_fetching();
    const std::uint16_t group = reactor.find(Kind::batch_fetch)->group;
    const std::size_t buffers = reactor.buffers_free(group);
    deliver_reads({2, 0, 3});
    ASSERT_EQ(session.requests.size(), 3U);
    EXPECT_EQ(reactor.take_brought(), 3U);
    EXPECT_EQ(session.requests[0].tag, 2);
    EXPECT_EQ(session.requests[0].offset, 2U * 4096);
    EXPECT_EQ(session.requests[1].tag, 0);
    EXPECT_EQ(session.requests[2].tag, 3);
    EXPECT_EQ(reactor.buffers_free(group), buffers) << "the buffer is the kernel's again";
    EXPECT_TRUE(fetches()) << "it delivers more";
    EXPECT_TRUE(batches().empty()) << "results leave with the round";
    reactor.begin_round();
    EXPECT_EQ(tags_of(only_batch()), (Tags{2, 0, 3}));
}

TEST_F(BatchCommandsTest, TheGroupOutlastsAnyNumberOfDeliveries) {
    start_fetching();
    for (int i = 0; i < 1000; ++i) {
        deliver_reads({1});
        reactor.begin_round();
        take();
        reactor.deliver({}, i % 3 == 0 ? 0 : completion::more);  // nothing in it
    }
    EXPECT_EQ(owner->counted()[Op::read].count, 1000U);
    EXPECT_TRUE(owner->failures.empty());
}

TEST_F(BatchCommandsTest, AFullQueueIsDeliveredInPieces) {
    config.depth = 4096;
    config.io_max = 4096;
    start_fetching();
    for (std::uint16_t first = 0; first < 4096; first += 128) {
        Tags tags;
        for (std::uint16_t i = 0; i < 128; ++i)
            tags.push_back(static_cast<std::uint16_t>(first + i));
        deliver_reads(tags);
    }
    reactor.begin_round();
    EXPECT_EQ(only_batch().batch.nr_elem, 4096);
    const auto elements = elements_of(only_batch());
    for (std::uint16_t tag = 0; tag < 4096; ++tag) {
        ASSERT_EQ(elements[tag].tag, tag);
        ASSERT_EQ(elements[tag].result, 4096);
    }
}

TEST_F(BatchCommandsTest, AFetchThatEndsForWantOfBuffersIsMadeAgain) {
    start_fetching();
    for (const int code : {ENOBUFS, EAGAIN, EINTR}) {
        end_fetch(-code);
        EXPECT_TRUE(fetches()) << code;
    }
    deliver_reads({1});
    kernel.put(0, 2, make_descriptor(abi::io_op_read, 0, 8));
    reactor.deliver({2}, 0);  // its last delivery
    EXPECT_TRUE(fetches());
    EXPECT_EQ(owner->counted()[Op::read].count, 2U);
    EXPECT_TRUE(owner->failures.empty());
}

// ---- Committing --------------------------------------------------------------------------------

TEST_F(BatchCommandsTest, ARoundsResultsLeaveInOneCommand) {
    config.index = 1;
    auto& session = start_fetching<test::ParkingSession>();
    deliver_reads({0, 1, 2, 3});
    ASSERT_TRUE(session.resume(3, {}));
    ASSERT_TRUE(session.resume(1, IoResult::from_errno(EIO)));
    EXPECT_TRUE(batches().empty());
    reactor.begin_round();
    const Pending& commit = only_batch();
    EXPECT_EQ(commit.opcode, abi::u_io_commit_io_cmds);
    EXPECT_EQ(commit.batch.q_id, 1);
    EXPECT_EQ(commit.batch.flags, kHasAddress);
    const auto elements = elements_of(commit);
    ASSERT_EQ(elements.size(), 2U);
    EXPECT_EQ(elements[0].tag, 3);
    EXPECT_EQ(elements[0].result, 4096);
    EXPECT_EQ(elements[1].tag, 1);
    EXPECT_EQ(elements[1].result, -EIO);
    EXPECT_NE(elements[0].address, elements[1].address);
    reactor.begin_round();
    EXPECT_EQ(batches().size(), 1U) << "a round without results commits nothing";
    ASSERT_TRUE(session.resume(0, {}));
    take();
    reactor.begin_round();
    EXPECT_EQ(tags_of(only_batch()), Tags{0});
}

TEST_F(BatchCommandsTest, WhatTheKernelDidNotTakeIsCommittedAgainFromThere) {
    start_fetching();
    deliver_reads({0, 1, 2, 3});
    reactor.begin_round();
    answer(16);  // one of four
    EXPECT_EQ(tags_of(only_batch()), (Tags{1, 2, 3}));
    EXPECT_EQ(only_batch().opcode, abi::u_io_commit_io_cmds);
    answer(-EAGAIN);
    EXPECT_EQ(tags_of(only_batch()), (Tags{1, 2, 3}));
    answer(32);
    EXPECT_EQ(tags_of(only_batch()), Tags{3});
    EXPECT_EQ(elements_of(only_batch())[0].result, 4096);
    answer(-EINTR);
    answer(16);
    EXPECT_TRUE(batches().empty());
    EXPECT_TRUE(owner->failures.empty());
    EXPECT_FALSE(queue->home());
    deliver_reads({3, 1});  // they are out again
    EXPECT_EQ(owner->counted()[Op::read].count, 6U);
}

TEST_F(BatchCommandsTest, MoreCommitsThanTwoMayBeOnTheirWay) {
    config.depth = 16;
    start_fetching();
    for (std::uint16_t tag = 0; tag < 10; ++tag) {
        deliver_reads({tag});
        reactor.begin_round();
    }
    const auto sent = batches();
    ASSERT_EQ(sent.size(), 10U);
    for (std::uint16_t tag = 0; tag < 10; ++tag) EXPECT_EQ(tags_of(sent[tag]), Tags{tag});
    // Answered last first; the memory of one is not another's.
    for (std::uint16_t left = 10; left > 0; --left) {
        EXPECT_EQ(tags_of(batches().back()), Tags{static_cast<std::uint16_t>(left - 1)});
        const Pending& last =
            *std::find_if(reactor.pending().rbegin(), reactor.pending().rend(),
                          [](const Pending& one) { return one.kind == Kind::batch_command; });
        reactor.complete(reactor.place_of(last), 16);
    }
    deliver_reads({0, 5, 9});
    reactor.begin_round();
    EXPECT_EQ(tags_of(only_batch()), (Tags{0, 5, 9}));
}

TEST_F(BatchCommandsTest, ACommitThatIsRefusedFailsTheQueue) {
    start_fetching();
    deliver_reads({0, 1});
    reactor.begin_round();
    answer(-EBUSY);
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].operation, "queue 0: commit requests");
    EXPECT_EQ(owner->failures[0].code, EBUSY);
    EXPECT_TRUE(batches().empty());
}

TEST_F(BatchCommandsTest, RegistrationByHandComesBeforeAndAfter) {
    config.data_path = DataPath::zero_copy;
    config.access = DataAccess::routes;
    auto& session = start_fetching();
    kernel.put(0, 1, make_descriptor(abi::io_op_read | abi::io_f_need_reg_buf, 0, 8));
    reactor.deliver({1});
    EXPECT_TRUE(session.requests.empty());
    ASSERT_NE(reactor.find(0, 1), nullptr);
    EXPECT_EQ(reactor.find(0, 1)->opcode, abi::u_io_register_io_buf);
    ASSERT_TRUE(reactor.complete_tag(0, 1, 0));
    ASSERT_EQ(session.requests.size(), 1U);
    reactor.begin_round();
    ASSERT_EQ(reactor.pending().size(), 3U);  // and the fetch
    EXPECT_EQ(reactor.pending()[1].opcode, abi::u_io_unregister_io_buf);
    EXPECT_EQ(reactor.pending()[2].opcode, abi::u_io_commit_io_cmds);
}

// ---- Coming home -------------------------------------------------------------------------------

TEST_F(BatchCommandsTest, TheEndOfTheFetchBringsIdleTagsHome) {
    thread = 3;
    start_fetching();
    end_fetch(abi::io_res_abort);
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes, std::vector<std::uint32_t>{3});
    EXPECT_TRUE(owner->failures.empty());
    EXPECT_TRUE(reactor.pending().empty());
    queue.reset();
    EXPECT_EQ(reactor.groups_open(), 0);
}

TEST_F(BatchCommandsTest, IsHomeExactlyWhenAllTagsAreBack) {
    config.depth = 6;
    auto& session = start_fetching<test::ParkingSession>();
    deliver_reads({1, 2, 3, 4, 5});
    ASSERT_TRUE(session.resume(1, {}));
    ASSERT_TRUE(session.resume(2, {}));
    reactor.begin_round();               // 1 and 2 are being committed
    ASSERT_TRUE(session.resume(3, {}));  // 3 is to be committed; 4 and 5 are being served
    end_fetch(abi::io_res_abort);
    EXPECT_FALSE(queue->home());
    EXPECT_FALSE(fetches()) << "it does not begin again";
    answer(16);  // 1; 2 is sent again
    EXPECT_EQ(tags_of(only_batch()), Tags{2});
    answer(16);
    EXPECT_FALSE(queue->home());
    ASSERT_TRUE(session.resume(4, {}));
    reactor.begin_round();
    EXPECT_EQ(tags_of(only_batch()), (Tags{3, 4}));
    take();
    EXPECT_FALSE(queue->home());
    ASSERT_TRUE(session.resume(5, IoResult::from_errno(EIO)));
    EXPECT_FALSE(queue->home()) << "its result is not told yet";
    reactor.begin_round();
    EXPECT_FALSE(queue->home());
    take();
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes.size(), 1U);
    EXPECT_TRUE(owner->failures.empty());
    EXPECT_TRUE(reactor.pending().empty());
    EXPECT_FALSE(fetches());
}

TEST_F(BatchCommandsTest, AFetchThatFailsOtherwiseFailsTheQueue) {
    start_fetching();
    end_fetch(-EINVAL);
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].operation, "queue 0: fetch requests");
    EXPECT_EQ(owner->failures[0].code, EINVAL);
    EXPECT_TRUE(queue->home());
    EXPECT_FALSE(fetches());
}

TEST_F(BatchCommandsTest, ClosingTheRingForgetsWhatWasToBeCommitted) {
    start_fetching();
    deliver_reads({0, 1});  // their commit would leave with the next round
    close_ring();
    queue.reset();
    EXPECT_EQ(reactor.groups_open(), 0);
    reactor.begin_round();
    EXPECT_TRUE(reactor.pending().empty());
}

}  // namespace
}  // namespace ashlar
