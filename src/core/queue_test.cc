// The real queue over a reactor and a character device that the test plays.
#include "core/queue.h"

#include <cerrno>
#include <set>

#include <gtest/gtest.h>

#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

using QueueTest = test::QueueFixture;

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
    EXPECT_EQ(request.buffer.address(), buffer);
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
    EXPECT_EQ(session.requests[0].buffer.data(), buffer);
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
    for (const Request& request : session.requests) EXPECT_EQ(request.buffer.length(), 0U);
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

TEST_F(QueueTest, ACountThatIsShortIsNoSuccess) {
    auto& session = start();
    session.answer = [](const Request&) { return IoResult::bytes(512); };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 8)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 1)), 512);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush, 0, 0)), 0);
    session.answer = [](const Request&) { return IoResult::bytes(8192); };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), -EIO) << "nor one that is too long";
    session.answer = [](const Request&) { return IoResult{}; };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
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
    EXPECT_EQ(session.requests[1].buffer.length(), 0U);
    EXPECT_EQ(session.requests[1].tag, 0);
    EXPECT_EQ(reactor.submissions(), before + 1) << "one commit for both";
    EXPECT_EQ(owner->counted()[Op::write].count, 1U);
    EXPECT_EQ(owner->counted()[Op::flush].count, 0U) << "nobody asked for a flush";
}

TEST_F(QueueTest, AFailedEmulatedFlushFailsTheWrite) {
    config.capabilities.fua = false;
    auto& session = start();
    session.answer = [](const Request& request) {
        return request.op == Op::flush ? IoResult::from_errno(ENOSPC) : IoResult{};
    };
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), -ENOSPC);
    EXPECT_EQ(session.requests.size(), 2U);
    EXPECT_EQ(owner->counted().errors(), 1U);
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
    ASSERT_EQ(session.requests.size(), 1U) << "a flush is not advertised";
    EXPECT_FALSE(session.requests[0].fua) << "every write is durable";
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
    const QueueMetrics counted = owner->counted();
    EXPECT_EQ(counted[Op::read].count, 64U);
    EXPECT_EQ(counted.errors(), 22U);
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
    thread = 5;
    start();
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        EXPECT_FALSE(queue->home());
        EXPECT_TRUE(owner->homes.empty());
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_abort));
    }
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes, std::vector<std::uint32_t>{5}) << "by the owner's number";
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

// ---- What sessions await -----------------------------------------------------------------------

// Reads for every request, and all the time for itself.
class BusySession final : public Session {
public:
    explicit BusySession(Io& io) : own_(listen(io)) {}
    ~BusySession() override { EXPECT_TRUE(closed); }
    Task<> serve(Io& io, const Request& request) override {
        co_return co_await io.read(kRequests, request.buffer, request.offset);
    }
    void close() noexcept override { closed = true; }

    static constexpr int kRequests = 70;  // stand for descriptors
    static constexpr int kOwn = 71;
    bool closed = false;

private:
    static Task<> listen(Io& io) {
        IoResult result;
        while (result.ok()) result = co_await io.read(kOwn, Buffer{}, 0);
        co_return result;
    }
    Task<> own_;
};

class BusyBackend final : public Backend {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "busy"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = 1 << 20}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        return std::make_unique<BusySession>(io);
    }
};

class BusyQueueTest : public QueueTest {
protected:
    void start_busy() {
        queue = open(std::make_shared<BusyBackend>()).value();
        queue->fetch_all();
    }
    const test::FakeReactor::Pending* read_of(int fd) {
        for (const auto& one : reactor.pending()) {
            if (one.submission != nullptr && one.submission->fd == fd) return &one;
        }
        return nullptr;
    }
    void end_read(int fd, std::int32_t result) {
        const auto* read = read_of(fd);
        ASSERT_NE(read, nullptr);
        reactor.complete(reactor.place_of(*read), result);
    }
};

TEST_F(BusyQueueTest, IsHomeWhenWhatTheSessionAwaitsForItselfHasEnded) {
    start_busy();
    end_read(BusySession::kOwn, 1);
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        EXPECT_FALSE(read_of(BusySession::kOwn)->cancelled) << "tags are still out";
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_abort));
    }
    EXPECT_TRUE(read_of(BusySession::kOwn)->cancelled);
    EXPECT_FALSE(queue->home());
    EXPECT_TRUE(owner->homes.empty());
    end_read(BusySession::kOwn, -ECANCELED);
    EXPECT_TRUE(queue->home());
    EXPECT_EQ(owner->homes.size(), 1U);
    EXPECT_TRUE(reactor.pending().empty()) << "it begins nothing any more";
    queue.reset();
}

TEST_F(BusyQueueTest, CancellingItsRequestsEndsWhatTheyAwaitAndNothingElse) {
    start_busy();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    queue->cancel_requests();
    EXPECT_TRUE(read_of(BusySession::kRequests)->cancelled);
    EXPECT_FALSE(read_of(BusySession::kOwn)->cancelled);
    EXPECT_FALSE(queue->home());
    end_read(BusySession::kRequests, -ECANCELED);
    EXPECT_EQ(committed(0), -ECANCELED);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), -ECANCELED) << "and every later one";
}

TEST_F(BusyQueueTest, EndsWithItsRingWhateverIsInFlight) {
    start_busy();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    close_ring();
    queue.reset();
    EXPECT_EQ(owner->closed, 1);
}

TEST_F(BusyQueueTest, NoSessionBeginsAnythingBeforeTheQueueStands) {
    reactor.refuse_files(ENFILE);
    auto opened = open(std::make_shared<BusyBackend>());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENFILE);
    EXPECT_EQ(reactor.submissions(), 0U) << "nobody would wait for its end";
}

TEST_F(QueueTest, ASessionThatDoesNotOpenIsTheErrorOfTheQueue) {
    config.data_path = DataPath::zero_copy;
    auto opened = open(std::make_shared<test::SessionBackend>(
        Error{.operation = "connect", .code = ECONNREFUSED}));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ECONNREFUSED);
    EXPECT_EQ(opened.error().operation, "connect");
    EXPECT_EQ(owner->closed, 1);
    EXPECT_EQ(reactor.files_registered(), 0);
    EXPECT_EQ(reactor.buffers_reserved(), 0);
}

TEST_F(QueueTest, AThreadThatCannotGoOnSaysSoOnce) {
    start();
    queue->fail(ENXIO);
    queue->fail(EIO);
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, ENXIO);
    EXPECT_EQ(owner->failures[0].operation, "queue 0: wait for requests");
}

// ---- The disk's size ---------------------------------------------------------------------------

TEST_F(QueueTest, NothingBeyondTheDiskReachesTheSession) {
    config.size = 8192;
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 8, 8)), 4096);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 9, 8)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, std::uint64_t{1} << 40, 8)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 16, 8)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0);
    EXPECT_FALSE(queue->resize(12288));
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 9, 8)), 4096);
    EXPECT_EQ(session.requests.size(), 3U);
}

TEST_F(QueueTest, TellsWhatIsInServiceBeyondASmallerEnd) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_write, 8, 8)));
    EXPECT_FALSE(queue->resize(8192));
    EXPECT_TRUE(queue->resize(4096));
    ASSERT_TRUE(session.resume(1, IoResult::bytes(4096)));
    EXPECT_FALSE(queue->resize(4096));
    ASSERT_TRUE(session.resume(0, IoResult::bytes(4096)));
}

TEST_F(QueueTest, AWriteThatWaitsForItsDataIsInServiceThere) {
    config.data_path = DataPath::get_data;
    start();
    kernel.put(0, 0, make_descriptor(abi::io_op_write, 8, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_need_get_data));
    EXPECT_FALSE(queue->resize(8192));
    EXPECT_TRUE(queue->resize(4096)) << "the driver is about to copy to 4096 and up";
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
    const QueueMetrics counted = owner->counted();
    EXPECT_EQ(counted[Op::read].count, 2U);
    EXPECT_EQ(counted[Op::read].bytes, 12288U);
    EXPECT_EQ(counted[Op::write].count, 1U);
    EXPECT_EQ(counted[Op::write].bytes, 12288U);
    EXPECT_EQ(counted[Op::flush].count, 2U);
    EXPECT_EQ(counted[Op::discard].count, 1U);
    EXPECT_EQ(counted[Op::write_zeroes].count, 1U);
    EXPECT_EQ(counted[Op::unknown].count, 0U);
    EXPECT_EQ(counted.errors(), 1U);
}

TEST_F(QueueTest, AnOperationThatIsNotKnownCountsAsOther) {
    start();
    serve(make_descriptor(abi::io_op_read, 0, 8));
    serve(make_descriptor(99, 0, 8));
    const QueueMetrics counted = owner->counted();
    EXPECT_EQ(counted[Op::read].count, 1U) << "the tag's last request is not served twice";
    EXPECT_EQ(counted[Op::read].bytes, 4096U);
    EXPECT_EQ(counted[Op::unknown].count, 1U);
    EXPECT_EQ(counted.errors(), 1U);
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

TEST_F(QueueTest, WhatTheThreadsEndLeavesIsLetGo) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_EQ(session.parked.size(), 1U);
    close_ring();
    queue.reset();  // with tags at the kernel, and a request that is being served
    EXPECT_EQ(owner->closed, 1);
    EXPECT_EQ(reactor.files_registered(), 0) << "or the ring holds the device";
}

class OpeningTest : public QueueTest {
protected:
    Result<std::unique_ptr<Queue>> open_queue() {
        return open(
            std::make_shared<test::SessionBackend>(std::make_unique<test::RecordingSession>()));
    }
};

TEST_F(OpeningTest, ABadDescriptorOpensNothingAndLeavesNothing) {
    kernel.release();
    const std::weak_ptr<CharDevice> watch = kernel.replace(std::make_shared<CharDevice>());
    auto opened = open_queue();
    kernel.release();
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, EBADF);
    EXPECT_EQ(opened.error().operation, "queue 0: map request descriptors");
    EXPECT_EQ(opened.error().device, DeviceId{7});
    EXPECT_EQ(owner->opened, 1);
    EXPECT_EQ(owner->closed, 1);
    EXPECT_TRUE(watch.expired());
    EXPECT_EQ(reactor.submissions(), 0U);
}

TEST_F(OpeningTest, AReactorWithoutASlotOpensNothingAndLeavesNothing) {
    reactor.refuse_files(ENFILE);
    auto opened = open_queue();
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENFILE);
    EXPECT_EQ(opened.error().operation, "register file");
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
    EXPECT_DEATH(operation->complete(0, 0), "broken invariant: allowed");
}

TEST_F(QueueDeathTest, ATagThatCompletesAfterItCameHome) {
    start();
    Operation* operation = reactor.find(0, 0)->operation;
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_abort));
    EXPECT_DEATH(operation->complete(0, 0), "broken invariant: allowed");
}

TEST_F(QueueDeathTest, ATagThatIsSubmittedTwice) {
    start();
    EXPECT_DEATH(queue->fetch_all(), "broken invariant: allowed");
}

TEST_F(QueueDeathTest, AQueueThatEndsWhileTheKernelMayStillWrite) {
    start();
    EXPECT_DEATH(queue.reset(), "broken invariant: tag.state");
}

}  // namespace
}  // namespace ashlar
