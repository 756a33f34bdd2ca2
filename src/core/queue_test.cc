// The real queue over a reactor and a character device that the test plays.
#include "core/queue.h"

#include <cerrno>
#include <set>

#include <gtest/gtest.h>

#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

constexpr std::uint32_t kIoMax = 64 * 1024;
constexpr Capabilities kEverything{
    .flush = true, .fua = true, .discard = true, .write_zeroes = true};

class QueueTest : public testing::Test {
protected:
    // Opens the queue with a session of the given kind and has it fetch.
    template <class S = test::RecordingSession>
    S& start() {
        auto session = std::make_unique<S>();
        S& kept = *session;
        auto opened = Queue::open(config, kernel.device(), reactor, std::move(session),
                                  owner->counters, owner);
        if (!opened) throw std::runtime_error(opened.error().message());
        queue = std::move(*opened);
        queue->fetch_all();
        return kept;
    }
    // The kernel delivers a request. False when the tag has no fetch pending.
    [[nodiscard]] bool deliver(std::uint16_t tag, const abi::IoDesc& descriptor) {
        kernel.put(config.index, tag, descriptor);
        return reactor.complete_tag(config.index, tag, abi::io_res_ok);
    }
    // The result that a tag's pending commit carries.
    std::int32_t committed(std::uint16_t tag) {
        const auto* commit = reactor.find(config.index, tag);
        if (commit == nullptr) throw std::runtime_error("nothing pending");
        EXPECT_EQ(commit->opcode, config.ioctl_commands ? abi::u_io_commit_and_fetch_req
                                                        : abi::io_commit_and_fetch_req);
        EXPECT_EQ(commit->io.tag, tag);
        return commit->io.result;
    }
    // Delivers to tag 0 and answers what is committed.
    std::int32_t serve(const abi::IoDesc& descriptor) {
        if (!deliver(0, descriptor)) throw std::runtime_error("tag 0 is not fetched");
        return committed(0);
    }
    void bring_home() {
        while (!reactor.pending().empty()) reactor.complete(0, abi::io_res_abort);
    }
    void TearDown() override {
        // As a thread does whose ring ended: what is pending never completes.
        if (queue && !queue->home()) queue->reactor_gone();
    }

    QueueConfig config{.device = 7,
                       .index = 0,
                       .depth = 4,
                       .io_max = kIoMax,
                       .ioctl_commands = true,
                       .capabilities = kEverything};
    test::FakeCharDevice kernel{3};
    test::FakeReactor reactor;
    std::shared_ptr<test::RecordingOwner> owner = std::make_shared<test::RecordingOwner>();
    std::unique_ptr<Queue> queue;
};

// ---- Fetching ----------------------------------------------------------------------------------

TEST_F(QueueTest, FetchesEveryTagAtOnce) {
    config.index = 2;
    start();
    ASSERT_EQ(reactor.pending().size(), 4U);
    EXPECT_EQ(reactor.rounds(), 0U);
    std::set<std::uint64_t> buffers;
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        const auto* fetch = reactor.find(2, tag);
        ASSERT_NE(fetch, nullptr) << tag;
        EXPECT_EQ(fetch->opcode, abi::u_io_fetch_req);
        EXPECT_EQ(reactor.files().at(fetch->file), kernel.device()->fd.get());
        EXPECT_EQ(fetch->io.result, 0);
        EXPECT_EQ(fetch->io.addr % 4096, 0U) << "the kernel wants whole pages";
        buffers.insert(fetch->io.addr);
    }
    ASSERT_EQ(buffers.size(), 4U);
    EXPECT_GE(*std::next(buffers.begin()) - *buffers.begin(), kIoMax);
    EXPECT_FALSE(queue->home());
}

TEST_F(QueueTest, EveryTagsBufferHasRoomForTheLargestRequest) {
    start();
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        auto* buffer = reinterpret_cast<std::byte*>(reactor.find(0, tag)->io.addr);
        std::memset(buffer, tag + 1, kIoMax);
    }
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        const auto* buffer = reinterpret_cast<const std::byte*>(reactor.find(0, tag)->io.addr);
        EXPECT_EQ(buffer[0], std::byte(tag + 1));
        EXPECT_EQ(buffer[kIoMax - 1], std::byte(tag + 1));
    }
}

TEST_F(QueueTest, LegacyOpcodesWhereTheKernelIsOld) {
    config.ioctl_commands = false;
    start();
    EXPECT_EQ(reactor.pending().at(0).opcode, abi::io_fetch_req);
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_NE(reactor.find(0, 0), nullptr);
    EXPECT_EQ(reactor.find(0, 0)->opcode, abi::io_commit_and_fetch_req);
}

TEST_F(QueueTest, DescriptorsOfALaterQueueLieAtTheKernelsStride) {
    config.index = 2;
    auto& session = start();
    // What the neighbours' arrays hold must not matter.
    kernel.put(0, 3, make_descriptor(abi::io_op_flush));
    kernel.put(1, 3, make_descriptor(abi::io_op_flush));
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_read, 16, 8)));
    ASSERT_EQ(session.requests.size(), 1U);
    EXPECT_EQ(session.requests[0].op, Op::read);
    EXPECT_EQ(session.requests[0].offset, 8192U);
    EXPECT_EQ(session.requests[0].queue, 2);
    EXPECT_EQ(session.requests[0].tag, 3);
}

// ---- Requests reach the session ----------------------------------------------------------------

TEST_F(QueueTest, Read) {
    auto& session = start();
    const auto buffer = reactor.find(0, 1)->io.addr;
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 3, 8)));
    ASSERT_EQ(session.requests.size(), 1U);
    const Request& request = session.requests[0];
    EXPECT_EQ(request.op, Op::read);
    EXPECT_EQ(request.offset, 3U * 512);
    EXPECT_EQ(request.length, 4096U);
    EXPECT_EQ(request.tag, 1);
    EXPECT_FALSE(request.fua);
    EXPECT_FALSE(request.no_unmap);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(request.data), buffer);
    EXPECT_EQ(committed(1), 4096);
    EXPECT_EQ(reactor.find(0, 1)->io.addr, buffer) << "the tag keeps its buffer";
}

TEST_F(QueueTest, WriteCarriesTheDataTheKernelPutThere) {
    auto& session = start();
    auto* buffer = reinterpret_cast<std::byte*>(reactor.find(0, 2)->io.addr);
    std::memset(buffer, 0x5a, 1024);
    std::byte first{};
    std::byte last{};
    session.answer = [&](const Request& request) {
        first = request.bytes().front();
        last = request.bytes().back();
        return IoResult{};
    };
    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_write | abi::io_f_fua, 1 << 20, 2)));
    ASSERT_EQ(session.requests.size(), 1U);
    EXPECT_EQ(session.requests[0].op, Op::write);
    EXPECT_EQ(session.requests[0].offset, std::uint64_t{512} << 20);
    EXPECT_EQ(session.requests[0].length, 1024U);
    EXPECT_TRUE(session.requests[0].fua);
    EXPECT_EQ(session.requests[0].data, buffer);
    EXPECT_EQ(first, std::byte{0x5a});
    EXPECT_EQ(last, std::byte{0x5a});
    // A session's success means all of it, whatever count it names.
    EXPECT_EQ(committed(2), 1024);
}

TEST_F(QueueTest, FlushDiscardAndWriteZeroesCarryNoDataAndCommitZero) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush, ~std::uint64_t{0}, 0)), 0);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 8, 16)), 0);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write_zeroes | abi::io_f_nounmap, 24, 8)), 0);
    ASSERT_EQ(session.requests.size(), 3U);
    EXPECT_EQ(session.requests[0].op, Op::flush);
    EXPECT_EQ(session.requests[0].offset, 0U);
    EXPECT_EQ(session.requests[0].length, 0U);
    EXPECT_EQ(session.requests[1].op, Op::discard);
    EXPECT_EQ(session.requests[1].offset, 4096U);
    EXPECT_EQ(session.requests[1].length, 8192U);
    EXPECT_FALSE(session.requests[1].no_unmap);
    EXPECT_EQ(session.requests[2].op, Op::write_zeroes);
    EXPECT_EQ(session.requests[2].offset, 12288U);
    EXPECT_TRUE(session.requests[2].no_unmap);
    for (const Request& request : session.requests) EXPECT_EQ(request.data, nullptr);
}

TEST_F(QueueTest, ADiscardOfMoreThanTwoGibibytesIsNoErrno) {
    start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 0, 0xffff'fff8)), 0);
}

TEST_F(QueueTest, TheLargestRequestFits) {
    start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, kIoMax / 512)), int{kIoMax});
}

TEST_F(QueueTest, ErrnosReachTheKernelAsTheyAre) {
    auto& session = start();
    for (const int code : {EIO, ENOSPC, ETIMEDOUT, EPERM, EILSEQ, 4095}) {
        session.answer = [code](const Request&) { return IoResult::from_errno(code); };
        for (const auto op : {abi::io_op_read, abi::io_op_write, abi::io_op_flush,
                              abi::io_op_discard, abi::io_op_write_zeroes}) {
            EXPECT_EQ(serve(make_descriptor(op, 0, op == abi::io_op_flush ? 0 : 8)), -code)
                << int{op};
        }
    }
}

// ---- Refused before the session sees them ------------------------------------------------------

TEST_F(QueueTest, UnknownOperations) {
    auto& session = start();
    for (const std::uint32_t op : {4U, 6U, 9U, 16U, 31U, 32U, 64U, 255U}) {
        EXPECT_EQ(serve(make_descriptor(op, 0, 8)), -EOPNOTSUPP) << op;
    }
    EXPECT_TRUE(session.requests.empty());
}

TEST_F(QueueTest, ZoneOperationsOfADeviceWithoutZones) {
    auto& session = start();
    for (const auto op : {abi::io_op_zone_open, abi::io_op_zone_append, abi::io_op_zone_reset_all,
                          abi::io_op_report_zones}) {
        EXPECT_EQ(serve(make_descriptor(op, 0, 8)), -EOPNOTSUPP) << int{op};
    }
    EXPECT_TRUE(session.requests.empty());
}

TEST_F(QueueTest, WhatIsNotAdvertised) {
    config.capabilities = {};
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), -EOPNOTSUPP);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 0, 8)), -EOPNOTSUPP);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write_zeroes, 0, 8)), -EOPNOTSUPP);
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
}

TEST_F(QueueTest, WritesToAReadOnlyDevice) {
    config.capabilities.read_only = true;
    auto& session = start();
    for (const auto op : {abi::io_op_write, abi::io_op_discard, abi::io_op_write_zeroes}) {
        EXPECT_EQ(serve(make_descriptor(op, 0, 8)), -EROFS) << int{op};
    }
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0);
}

TEST_F(QueueTest, LongerThanTheTagsBuffer) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, kIoMax / 512 + 1)), -EINVAL);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 0xffff'ffff)), -EINVAL);
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 0, kIoMax / 512 + 1)), 0) << "no buffer";
}

TEST_F(QueueTest, ARangePastTheEndOfFileOffsets) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, std::uint64_t{1} << 54, 8)), -EINVAL);
    EXPECT_TRUE(session.requests.empty());
}

// ---- FUA ---------------------------------------------------------------------------------------

constexpr std::uint32_t kFuaWrite = abi::io_op_write | abi::io_f_fua;

TEST_F(QueueTest, FuaIsEmulatedByAFlushAfterTheWrite) {
    config.capabilities.fua = false;
    auto& session = start();
    const auto before = reactor.submissions();
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 8, 8)), 4096);
    ASSERT_EQ(session.requests.size(), 2U);
    EXPECT_EQ(session.requests[0].op, Op::write);
    EXPECT_EQ(session.requests[1].op, Op::flush);
    EXPECT_EQ(session.requests[1].offset, 0U);
    EXPECT_EQ(session.requests[1].length, 0U);
    EXPECT_EQ(session.requests[1].data, nullptr);
    EXPECT_EQ(session.requests[1].tag, 0);
    EXPECT_EQ(reactor.submissions(), before + 1) << "one commit for both";
    EXPECT_EQ(owner->counters.snapshot().writes, 1U);
    EXPECT_EQ(owner->counters.snapshot().flushes, 0U) << "nobody asked for a flush";
}

TEST_F(QueueTest, AFailedEmulatedFlushFailsTheWrite) {
    config.capabilities.fua = false;
    auto& session = start();
    session.answer = [](const Request& request) {
        return request.op == Op::flush ? IoResult::from_errno(ENOSPC) : IoResult{};
    };
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), -ENOSPC);
    EXPECT_EQ(session.requests.size(), 2U);
    EXPECT_EQ(owner->counters.snapshot().errors, 1U);
    session.answer = [](const Request&) { return IoResult{}; };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 8)), 4096);
    EXPECT_EQ(session.requests.size(), 3U) << "no flush is left over";
}

TEST_F(QueueTest, AFailedWriteIsNotFlushed) {
    config.capabilities.fua = false;
    auto& session = start();
    session.answer = [](const Request&) { return IoResult::from_errno(EIO); };
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), -EIO);
    EXPECT_EQ(session.requests.size(), 1U);
    session.answer = [](const Request&) { return IoResult{}; };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 8)), 4096);
    EXPECT_EQ(session.requests.size(), 2U) << "no flush is left over";
}

TEST_F(QueueTest, FuaOfTheBackendsOwnNeedsNoFlush) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), 4096);
    ASSERT_EQ(session.requests.size(), 1U);
    EXPECT_TRUE(session.requests[0].fua);
}

TEST_F(QueueTest, FuaWithoutAVolatileCacheNeedsNoFlush) {
    config.capabilities = {};
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), 4096);
    EXPECT_EQ(session.requests.size(), 1U) << "a flush is not advertised";
}

TEST_F(QueueTest, FuaIsEmulatedAlsoWhenTheSessionTakesItsTime) {
    config.capabilities.fua = false;
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(kFuaWrite, 0, 8)));
    ASSERT_EQ(session.parked.size(), 1U);
    EXPECT_EQ(session.parked[0].request.op, Op::write);
    ASSERT_TRUE(session.resume(0, {}));
    EXPECT_EQ(reactor.find(0, 0), nullptr) << "not durable yet";
    ASSERT_EQ(session.parked.size(), 1U);
    EXPECT_EQ(session.parked[0].request.op, Op::flush);
    ASSERT_TRUE(session.resume(0, {}));
    EXPECT_EQ(committed(0), 4096);
}

// ---- Sessions that take their time -------------------------------------------------------------

TEST_F(QueueTest, ManyInFlightEndInAnyOrder) {
    config.depth = 64;
    auto& session = start<test::ParkingSession>();
    for (std::uint16_t tag = 0; tag < 64; ++tag) {
        ASSERT_TRUE(deliver(tag, make_descriptor(abi::io_op_read, tag * 8U, 8)));
    }
    ASSERT_EQ(session.parked.size(), 64U);
    EXPECT_TRUE(reactor.pending().empty()) << "nothing is committed before it is served";
    const auto before = reactor.submissions();
    for (std::uint16_t step = 0; step < 64; ++step) {
        const auto tag = static_cast<std::uint16_t>((step * 37U + 5U) % 64U);
        const auto result = tag % 3 == 0 ? IoResult::from_errno(EIO) : IoResult::bytes(4096);
        ASSERT_TRUE(session.resume(tag, result));
        EXPECT_EQ(committed(tag), tag % 3 == 0 ? -EIO : 4096);
        EXPECT_EQ(reactor.submissions(), before + step + 1U) << "one commit a request";
    }
    EXPECT_TRUE(session.parked.empty());
    const QueueCounters counters = owner->counters.snapshot();
    EXPECT_EQ(counters.reads, 64U);
    EXPECT_EQ(counters.errors, 22U);
}

TEST_F(QueueTest, ATagServesAgainAndAgain) {
    auto& session = start<test::ParkingSession>();
    std::size_t frame = 0;
    for (std::uint64_t round = 0; round < 1000; ++round) {
        ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, round, 1)));
        ASSERT_EQ(session.parked.size(), 1U);
        EXPECT_EQ(session.parked[0].request.offset, round * 512);
        if (round == 0) frame = session.parked[0].arena_used;
        EXPECT_EQ(session.parked[0].arena_used, frame) << "the last request's frame is freed";
        ASSERT_TRUE(session.resume(1, {}));
        EXPECT_EQ(committed(1), 512);
    }
}

// ---- Coming home -------------------------------------------------------------------------------

TEST_F(QueueTest, AbortBringsEveryTagHomeAndSaysSoOnce) {
    start();
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        EXPECT_FALSE(queue->home());
        EXPECT_TRUE(owner->homes.empty());
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_abort));
    }
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes, std::vector<std::uint16_t>{0});
    EXPECT_TRUE(owner->failures.empty());
    EXPECT_TRUE(reactor.pending().empty()) << "an aborted tag is not fetched again";
    queue.reset();
    EXPECT_EQ(owner->closed, 1);
    EXPECT_EQ(reactor.files_registered(), 0);
}

TEST_F(QueueTest, ATagThatServesCommitsBeforeItComesHome) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_write, 0, 8)));
    for (std::uint16_t tag = 0; tag < 3; ++tag) {
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_abort));
    }
    EXPECT_FALSE(queue->home());
    EXPECT_TRUE(owner->homes.empty());
    ASSERT_TRUE(session.resume(3, {}));
    EXPECT_EQ(committed(3), 4096);
    EXPECT_FALSE(queue->home());
    ASSERT_TRUE(reactor.complete_tag(0, 3, abi::io_res_abort));
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes.size(), 1U);
}

// ---- Fetches that fail -------------------------------------------------------------------------

TEST_F(QueueTest, TheKernelMayAskForACommandOnceMore) {
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
        EXPECT_EQ(owner->counters.snapshot().reads, 1U);
        bring_home();
        EXPECT_EQ(owner->homes.size(), 1U);
        queue.reset();
    }
}

TEST_F(QueueTest, AnotherErrorFailsTheQueueOnceWithItsErrno) {
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

TEST_F(QueueTest, AnAnswerThatMeansNothingFailsTheQueue) {
    start();
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_need_get_data));
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, EPROTO);
}

TEST_F(QueueTest, AThreadThatCannotGoOnSaysSoOnce) {
    start();
    queue->fail(ENXIO);
    queue->fail(EIO);
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, ENXIO);
    EXPECT_EQ(owner->failures[0].operation, "queue 0: wait for requests");
}

// ---- Counters ----------------------------------------------------------------------------------

TEST_F(QueueTest, CountsWhatItServes) {
    auto& session = start();
    serve(make_descriptor(abi::io_op_read, 0, 8));
    serve(make_descriptor(abi::io_op_read, 0, 16));
    serve(make_descriptor(abi::io_op_write, 0, 24));
    serve(make_descriptor(abi::io_op_flush));
    serve(make_descriptor(abi::io_op_discard, 0, 8));
    serve(make_descriptor(abi::io_op_write_zeroes, 0, 8));
    session.answer = [](const Request&) { return IoResult::from_errno(EIO); };
    serve(make_descriptor(abi::io_op_flush));
    const QueueCounters counters = owner->counters.snapshot();
    EXPECT_EQ(counters.reads, 2U);
    EXPECT_EQ(counters.read_bytes, 12288U);
    EXPECT_EQ(counters.writes, 1U);
    EXPECT_EQ(counters.write_bytes, 12288U);
    EXPECT_EQ(counters.flushes, 2U);
    EXPECT_EQ(counters.discards, 1U);
    EXPECT_EQ(counters.write_zeroes, 1U);
    EXPECT_EQ(counters.others, 0U);
    EXPECT_EQ(counters.errors, 1U);
    owner->counters.reset();
    EXPECT_EQ(owner->counters.snapshot().reads, 0U);
    EXPECT_EQ(owner->counters.snapshot().errors, 0U);
}

TEST_F(QueueTest, AnOperationThatIsNotKnownCountsAsOther) {
    start();
    serve(make_descriptor(abi::io_op_read, 0, 8));
    serve(make_descriptor(99, 0, 8));
    const QueueCounters counters = owner->counters.snapshot();
    EXPECT_EQ(counters.reads, 1U) << "the tag's last request is not served twice";
    EXPECT_EQ(counters.read_bytes, 4096U);
    EXPECT_EQ(counters.others, 1U);
    EXPECT_EQ(counters.errors, 1U);
}

// ---- Opening and closing -----------------------------------------------------------------------

TEST_F(QueueTest, ClosingLetsGoOfEverything) {
    start();
    EXPECT_EQ(owner->opened, 1);
    EXPECT_EQ(reactor.files_registered(), 1);
    const auto device = kernel.release();
    EXPECT_FALSE(device.expired());
    bring_home();
    EXPECT_EQ(owner->closed, 0);
    owner->on_closed = [&] { EXPECT_TRUE(device.expired()) << "told only when all is let go"; };
    queue.reset();
    EXPECT_EQ(owner->closed, 1);
    EXPECT_TRUE(device.expired()) << "the kernel waits for this";
    EXPECT_EQ(reactor.files_registered(), 0);
    EXPECT_EQ(owner.use_count(), 1);
}

TEST_F(QueueTest, ClosingAfterTheRingIsGoneTouchesItNoMore) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_EQ(session.parked.size(), 1U);
    queue->reactor_gone();
    queue.reset();  // with tags at the kernel, and a request that is being served
    EXPECT_EQ(owner->closed, 1);
    EXPECT_EQ(reactor.files_registered(), 1);
}

TEST_F(QueueTest, ABadDescriptorOpensNothingAndLeavesNothing) {
    auto device = std::make_shared<CharDevice>();
    const std::weak_ptr<CharDevice> watch = device;
    auto opened = Queue::open(config, std::move(device), reactor,
                              std::make_unique<test::RecordingSession>(), owner->counters, owner);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, EBADF);
    EXPECT_EQ(opened.error().operation, "queue 0: map request descriptors");
    EXPECT_EQ(opened.error().device, DeviceId{7});
    EXPECT_EQ(owner->opened, 1);
    EXPECT_EQ(owner->closed, 1);
    EXPECT_TRUE(watch.expired());
    EXPECT_EQ(reactor.submissions(), 0U);
}

TEST_F(QueueTest, AReactorWithoutASlotOpensNothingAndLeavesNothing) {
    reactor.refuse_files(ENFILE);
    auto opened = Queue::open(config, kernel.device(), reactor,
                              std::make_unique<test::RecordingSession>(), owner->counters, owner);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENFILE);
    EXPECT_EQ(opened.error().operation, "queue 0: register file");
    EXPECT_EQ(owner->opened, 1);
    EXPECT_EQ(owner->closed, 1);
    EXPECT_EQ(kernel.device().use_count(), 1);
}

// ---- Broken invariants end the process ---------------------------------------------------------

using QueueDeathTest = QueueTest;

TEST_F(QueueDeathTest, ATagThatCompletesTwice) {
    start<test::ParkingSession>();
    Operation* operation = reactor.find(0, 0)->operation;
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    EXPECT_DEATH(operation->complete(0, 0), "broken invariant: state_ == TagState::with_kernel");
}

TEST_F(QueueDeathTest, ATagThatCompletesAfterItCameHome) {
    start();
    Operation* operation = reactor.find(0, 0)->operation;
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_abort));
    EXPECT_DEATH(operation->complete(0, 0), "broken invariant: state_ == TagState::with_kernel");
}

TEST_F(QueueDeathTest, ATagThatIsSubmittedTwice) {
    start();
    EXPECT_DEATH(queue->fetch_all(), "broken invariant: state_ != TagState::with_kernel");
}

TEST_F(QueueDeathTest, AQueueThatEndsWhileTheKernelMayStillWrite) {
    start();
    EXPECT_DEATH(queue.reset(), "broken invariant: .*with_kernel");
}

}  // namespace
}  // namespace ashlar
