// FaultOptions::volatile_cache, as a device sees it.
#include "layers/fault/cached_session.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "conformance/backend_conformance.h"
#include "layers/members/test_member.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using test::TestMember;
using Kind = Fault::Kind;

constexpr std::uint32_t kBlock = 512;
constexpr std::uint64_t kSize = 64 * 1024;

std::string conformance_over(const std::function<std::shared_ptr<Backend>()>& open_inner) {
    return test::check_conformance(
        {.open = [&] { return open_fault(open_inner(), {.volatile_cache = true}); },
         .operations = 800});
}
std::shared_ptr<Backend> memory(std::uint64_t size) {
    return open_memory({.geometry = {.size = size}}).value();
}

TEST(CachedSession, ConformsOverMemory) {
    EXPECT_EQ(conformance_over([] { return memory(1 << 20); }), "");
}

TEST(CachedSession, ConformsOverAStripe) {
    EXPECT_EQ(conformance_over([] {
                  return open_stripe({memory(1 << 18), memory(1 << 18)}, {.chunk = 4096}).value();
              }),
              "");
}

// Flushes, discards and reads take their time, and meet those of other threads.
TEST(CachedSession, ConformsOverADelay) {
    EXPECT_EQ(conformance_over([] {
                  const Latency some{.shape = Latency::Shape::exponential,
                                     .mean = std::chrono::microseconds(20)};
                  return open_delay(
                             memory(1 << 20),
                             {.read = some, .write = some, .discard = some, .write_zeroes = some})
                      .value();
              }),
              "");
}

TEST(CachedSession, ConformsOverACacheOfItsOwnKind) {
    EXPECT_EQ(conformance_over(
                  [] { return open_fault(memory(1 << 18), {.volatile_cache = true}).value(); }),
              "");
}

class CachedSessionTest : public testing::Test {
protected:
    void open(const Capabilities& can = {.flush = true, .discard = true, .write_zeroes = true},
              const std::vector<Fault>& faults = {}) {
        inner = std::make_shared<TestMember>(Geometry{.size = kSize}, can);
        backend = open_fault(inner, {.faults = faults, .volatile_cache = true}).value();
        session = backend->open_session(ring.io()).value();
    }
    // Requests and data live as long as the test.
    Task<> start(Op op, std::uint64_t offset = 0, std::uint32_t length = 0, int value = 0) {
        Request& request = requests.emplace_back();
        request = {.offset = offset, .length = length, .op = op};
        if (op == Op::read || op == Op::write) {
            auto& bytes = buffers.emplace_back(length, static_cast<std::byte>(value));
            request.buffer = Buffer::memory(bytes.data(), length);
        }
        return session->serve(ring.io(), request);
    }
    int serve(Op op, std::uint64_t offset = 0, std::uint32_t length = 0, int value = 0) {
        const Task<> task = start(op, offset, length, value);
        EXPECT_TRUE(task.done());
        return task.result().error();
    }
    int write(std::uint64_t offset, std::uint32_t length, int value) {
        return serve(Op::write, offset, length, value);
    }
    // The first byte of each block.
    std::vector<int> read(std::uint64_t offset, std::uint32_t length) {
        EXPECT_EQ(serve(Op::read, offset, length, 0xee), 0);
        std::vector<int> values;
        for (std::uint32_t at = 0; at < length; at += kBlock) {
            values.push_back(std::to_integer<int>(buffers.back()[at]));
        }
        return values;
    }
    int inner_at(std::uint64_t offset) const {
        return std::to_integer<int>(inner->content[offset]);
    }
    std::vector<Op> inner_ops() const {
        std::vector<Op> ops;
        for (const Request& request : inner->requests) ops.push_back(request.op);
        return ops;
    }

    test::RingRunner ring;
    std::shared_ptr<TestMember> inner;
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::deque<Request> requests;
    std::deque<std::vector<std::byte>> buffers;
};

TEST_F(CachedSessionTest, WritesReachTheDiskWithAFlush) {
    open();
    EXPECT_EQ(write(0, 1024, 1), 0);
    EXPECT_EQ(write(4096, 512, 2), 0);
    EXPECT_TRUE(inner->requests.empty());
    EXPECT_EQ(read(0, 1024), (std::vector{1, 1}));
    EXPECT_TRUE(inner->requests.empty());
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::write, Op::write, Op::flush}));
    EXPECT_EQ(inner_at(1023), 1);
    EXPECT_EQ(inner_at(4096), 2);
    inner->requests.clear();
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::flush})) << "once is enough";
    EXPECT_EQ(read(0, 512), (std::vector{1}));
    EXPECT_EQ(inner_ops().back(), Op::read) << "it is no longer in the cache";
}

TEST_F(CachedSessionTest, ADiskWithoutACacheIsNotFlushed) {
    open({});
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_EQ(write(0, 512, 1), 0);
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::write}));
}

TEST_F(CachedSessionTest, ReadsPutTogetherWhatLiesInBothPlaces) {
    open();
    std::ranges::fill(inner->content, std::byte{9});
    EXPECT_EQ(write(512, 512, 1), 0);
    EXPECT_EQ(write(1536, 1024, 2), 0);
    EXPECT_EQ(read(0, 3584), (std::vector{9, 1, 9, 2, 2, 9, 9}));
    EXPECT_EQ(read(1536, 1024), (std::vector{2, 2}));
    EXPECT_EQ(read(2048, 1024), (std::vector{2, 9}));
    EXPECT_EQ(read(8192, 512), (std::vector{9}));
}

TEST_F(CachedSessionTest, AReadThatFailsBelowFails) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->answer = [](const Request&) { return IoResult::from_errno(ENODATA); };
    EXPECT_EQ(serve(Op::read, 0, 1024), ENODATA);
    EXPECT_EQ(serve(Op::read, 0, 512), 0);
}

TEST_F(CachedSessionTest, ZeroesWaitForAFlushToo) {
    open();
    std::ranges::fill(inner->content, std::byte{9});
    EXPECT_EQ(serve(Op::write_zeroes, 512, 1024), 0);
    EXPECT_TRUE(inner->requests.empty());
    EXPECT_EQ(read(0, 2048), (std::vector{9, 0, 0, 9}));
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner->requests.at(2).op, Op::write_zeroes);
    EXPECT_EQ(inner_at(511), 9);
    EXPECT_EQ(inner_at(512), 0);
    EXPECT_EQ(inner_at(1536), 9);
    EXPECT_FALSE(inner->requests.at(2).no_unmap);
    const Request kept{.length = 512, .op = Op::write_zeroes, .no_unmap = true};
    EXPECT_TRUE(session->serve(ring.io(), kept).result().ok());
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner->requests.at(4).op, Op::write_zeroes);
    EXPECT_TRUE(inner->requests.at(4).no_unmap);
}

TEST_F(CachedSessionTest, SessionsShareTheCache) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    session = backend->open_session(ring.io()).value();
    EXPECT_EQ(read(0, 512), (std::vector{1}));
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_at(0), 1);
}

TEST_F(CachedSessionTest, SaysWhatItCan) {
    open({.flush = true, .fua = true, .read_only = true});
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_FALSE(backend->capabilities().fua) << "the engine flushes after the write";
    EXPECT_FALSE(backend->capabilities().discard);
    EXPECT_TRUE(backend->capabilities().read_only);
    EXPECT_EQ(write(0, 512, 1), EROFS);
    inner->access = DataAccess::routes;
    EXPECT_EQ(backend->data_access(), DataAccess::sees);
    session->close();
    EXPECT_EQ(inner->closed, 1);
    open({});
    EXPECT_EQ(serve(Op::discard, 0, 512), EOPNOTSUPP);
    EXPECT_EQ(serve(Op::write_zeroes, 0, 512), EOPNOTSUPP);
    EXPECT_EQ(serve(Op::zone_open, 0, 512), EOPNOTSUPP);
}

TEST_F(CachedSessionTest, BlocksAreAsLargeAsTheAlignmentOfData) {
    inner = std::make_shared<TestMember>(Geometry{.size = 8192 + 512, .dma_alignment = 4096});
    EXPECT_EQ(open_fault(inner, {}).value()->geometry().logical_block_size, 512U);
    const Geometry geometry = open_fault(inner, {.volatile_cache = true}).value()->geometry();
    EXPECT_EQ(geometry.logical_block_size, 4096U);
    EXPECT_EQ(geometry.size, 8192U);
    EXPECT_TRUE(check_geometry(geometry));
}

// ---- Flushes that meet something ---------------------------------------------------------------

TEST_F(CachedSessionTest, AFlushThatFailsLosesNothing) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    EXPECT_EQ(write(4096, 512, 2), 0);
    for (const Op broken : {Op::write, Op::flush}) {
        inner->answer = [&](const Request& request) {
            return request.op == broken ? IoResult::from_errno(ENOSPC) : IoResult{};
        };
        EXPECT_EQ(serve(Op::flush), ENOSPC);
        EXPECT_EQ(read(4096, 512), (std::vector{2}));
    }
    inner->answer = nullptr;
    inner->requests.clear();
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::write, Op::write, Op::flush}));
    EXPECT_EQ(inner_at(0), 1);
    EXPECT_EQ(inner_at(4096), 2);
}

TEST_F(CachedSessionTest, AWriteDuringAFlushWaitsForTheNext) {
    open();
    EXPECT_EQ(write(0, 1024, 1), 0);
    inner->parks = true;
    const Task<> flush = start(Op::flush);
    EXPECT_EQ(write(0, 512, 2), 0);  // while the first version is on its way
    EXPECT_EQ(read(0, 1024), (std::vector{2, 1}));
    inner->resume(0);  // the write-back
    EXPECT_EQ(write(4096, 512, 3), 0);
    EXPECT_EQ(read(0, 1024), (std::vector{2, 1}));
    inner->resume(0);  // the disk's own flush
    ASSERT_TRUE(flush.done());
    EXPECT_TRUE(flush.result().ok());
    EXPECT_EQ(inner_at(0), 1) << "what the flush promised";
    EXPECT_EQ(inner_at(4096), 0);
    EXPECT_EQ(read(0, 512), (std::vector{2}));
    inner->parks = false;
    inner->requests.clear();
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::write, Op::write, Op::flush}));
    EXPECT_EQ(inner_at(0), 2);
    EXPECT_EQ(inner_at(512), 1);
    EXPECT_EQ(inner_at(4096), 3);
}

TEST_F(CachedSessionTest, OneFlushAfterTheOther) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->parks = true;
    const Task<> first = start(Op::flush);
    EXPECT_EQ(write(0, 512, 2), 0);
    const Task<> second = start(Op::flush);
    const Task<> third = start(Op::flush);
    for (int i = 0; i < 3; ++i) ring.run_once();  // they look, and must wait on
    EXPECT_EQ(inner->parked.size(), 1U);
    inner->resume(0);
    inner->resume(0);
    EXPECT_TRUE(first.done());
    EXPECT_EQ(inner_at(0), 1);
    EXPECT_FALSE(second.done() || third.done());
    ring.run_until([&] { return !inner->parked.empty(); });
    EXPECT_EQ(inner->parked.size(), 1U);
    inner->parks = false;
    inner->resume(0);
    ring.run_until([&] { return second.done() && third.done(); });
    EXPECT_TRUE(second.result().ok());
    EXPECT_TRUE(third.result().ok());
    EXPECT_EQ(inner_at(0), 2);
}

TEST_F(CachedSessionTest, AFlushThatWaitsCanBeCancelled) {
    open();
    inner->parks = true;
    const Task<> first = start(Op::flush);
    const Task<> second = start(Op::flush);
    ring.cancel();
    ring.run_until([&] { return second.done(); });
    EXPECT_EQ(second.result().error(), ECANCELED);
    EXPECT_EQ(serve(Op::flush), ECANCELED) << "it is still the first one's turn";
    inner->resume(0);
    EXPECT_TRUE(first.done());
}

TEST_F(CachedSessionTest, AFlushThatNeverEndsLetsOthersGoOnOnceItIsGone) {
    open({});
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->parks = true;
    {
        const Task<> flush = start(Op::flush);
        EXPECT_FALSE(flush.done());
    }
    inner->parked.clear();
    inner->parks = false;
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(inner_at(0), 1);
}

// ---- Discards ----------------------------------------------------------------------------------

TEST_F(CachedSessionTest, ADiscardGoesToTheDiskAndOutOfTheCache) {
    open();
    std::ranges::fill(inner->content, std::byte{9});
    EXPECT_EQ(write(0, 2048, 1), 0);
    EXPECT_EQ(serve(Op::discard, 512, 1024), 0);
    EXPECT_EQ(inner_ops(), (std::vector{Op::discard}));
    EXPECT_EQ(read(0, 2048), (std::vector{1, 0, 0, 1})) << "of the disk, which zeroes it";
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(read(0, 2560), (std::vector{1, 0, 0, 1, 9}));
}

TEST_F(CachedSessionTest, ADiscardThatFailsLosesNothing) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->answer = [](const Request&) { return IoResult::from_errno(EIO); };
    EXPECT_EQ(serve(Op::discard, 0, 512), EIO);
    inner->answer = nullptr;
    EXPECT_EQ(read(0, 512), (std::vector{1}));
}

TEST_F(CachedSessionTest, ADiscardDoesNotTakeAWriteThatCameDuringIt) {
    open();
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->parks = true;
    const Task<> discard = start(Op::discard, 0, 4096);
    EXPECT_EQ(write(0, 512, 2), 0);
    inner->resume(0);
    EXPECT_TRUE(discard.done());
    EXPECT_EQ(read(0, 512), (std::vector{2}));
}

// Else the write-back would bring back what was discarded, after it was read as something else.
TEST_F(CachedSessionTest, ADiscardWaitsForAFlush) {
    open({.discard = true});
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->parks = true;
    const Task<> flush = start(Op::flush);
    const Task<> discard = start(Op::discard, 0, 512);
    EXPECT_EQ(inner_ops(), (std::vector{Op::write}));
    inner->resume(0);
    EXPECT_TRUE(flush.done());
    inner->parks = false;
    ring.run_until([&] { return discard.done(); });
    EXPECT_EQ(inner_ops(), (std::vector{Op::write, Op::discard}));
    EXPECT_EQ(read(0, 512), (std::vector{0}));
}

// ---- Power cuts --------------------------------------------------------------------------------

TEST_F(CachedSessionTest, APowerCutLosesWhatWasNotFlushed) {
    open({}, {{.kind = Kind::power_cut, .code = ENODEV, .operations = {Op::read}}});
    EXPECT_EQ(write(0, 512, 1), 0);
    EXPECT_EQ(serve(Op::flush), 0);
    EXPECT_EQ(write(0, 512, 2), 0);
    EXPECT_EQ(write(512, 512, 2), 0);
    EXPECT_EQ(serve(Op::read, 0, 512), ENODEV);
    EXPECT_EQ(serve(Op::flush), ENODEV);
    EXPECT_EQ(write(0, 512, 3), ENODEV);
    EXPECT_EQ(inner_at(0), 1);
    EXPECT_EQ(inner_at(512), 0);
}

TEST_F(CachedSessionTest, APowerCutDuringAFlushEndsIt) {
    open({}, {{.kind = Kind::power_cut, .operations = {Op::read}}});
    EXPECT_EQ(write(0, 512, 1), 0);
    EXPECT_EQ(write(4096, 512, 1), 0);
    inner->parks = true;
    const Task<> flush = start(Op::flush);
    EXPECT_EQ(serve(Op::read, 8192, 512), EIO);
    inner->resume(0);
    ASSERT_TRUE(flush.done());
    EXPECT_EQ(flush.result().error(), EIO);
    EXPECT_EQ(inner_at(0), 1);
    EXPECT_EQ(inner_at(4096), 0);
    EXPECT_TRUE(inner->parked.empty());
}

TEST_F(CachedSessionTest, WhatWaitsForAFlushDoesNotOutliveThePower) {
    open({.discard = true}, {{.kind = Kind::power_cut, .operations = {Op::read}}});
    EXPECT_EQ(write(0, 512, 1), 0);
    inner->parks = true;
    const Task<> flush = start(Op::flush);
    const Task<> discard = start(Op::discard, 0, 512);
    EXPECT_EQ(serve(Op::read, 8192, 512), EIO);
    inner->resume(0);
    EXPECT_TRUE(flush.done());
    EXPECT_TRUE(flush.result().ok()) << "nothing of it was lost";
    ring.run_until([&] { return discard.done(); });
    EXPECT_EQ(discard.result().error(), EIO);
    EXPECT_EQ(inner_at(0), 1);
}

TEST_F(CachedSessionTest, TornWritesAreTornInTheCache) {
    open({}, {{.kind = Kind::torn}});
    EXPECT_EQ(write(0, 1024, 1), EIO);
    EXPECT_TRUE(inner->requests.empty());
    EXPECT_EQ(read(0, 1024), (std::vector{1, 0}));
}

// Random writes and flushes, the power cut at some point, maybe in the midst of a flush. Each block
// carries the number of its write in every word.
class CrashTest : public CachedSessionTest {
protected:
    static constexpr std::uint64_t kBlocks = 48;
    using Disk = std::vector<std::uint64_t>;  // for each block the number it holds

    std::uint64_t pick(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random);
    }
    void write_some() {
        const std::uint64_t first = pick(kBlocks);
        const std::uint64_t count = 1 + pick(std::min<std::uint64_t>(8, kBlocks - first));
        const bool zeroes = pick(5) == 0;
        const std::uint64_t number = zeroes ? 0 : ++last_number;
        std::vector<std::uint64_t> data(count * kBlock / sizeof(number), number);
        const auto length = static_cast<std::uint32_t>(count * kBlock);
        Request request{.offset = first * kBlock,
                        .length = length,
                        .op = zeroes ? Op::write_zeroes : Op::write};
        if (!zeroes) {
            request.buffer = Buffer::memory(reinterpret_cast<std::byte*>(data.data()), length);
        }
        ASSERT_TRUE(session->serve(ring.io(), request).result().ok());
        std::fill_n(now.begin() + static_cast<std::ptrdiff_t>(first), count, number);
    }
    void check_reads() {
        std::vector<std::uint64_t> data(kBlocks * kBlock / sizeof(std::uint64_t), ~0ULL);
        const Request request{
            .length = kBlocks * kBlock,
            .op = Op::read,
            .buffer = Buffer::memory(reinterpret_cast<std::byte*>(data.data()), kBlocks * kBlock)};
        const bool parked = std::exchange(inner->parks, false);
        ASSERT_TRUE(session->serve(ring.io(), request).result().ok());
        inner->parks = parked;
        for (std::size_t i = 0; i < data.size(); ++i) {
            ASSERT_EQ(data[i], now[i * sizeof(std::uint64_t) / kBlock]);
        }
    }
    // A flush during which more is written; cut after some of its steps, if there are so many.
    // False: it was.
    bool flush(std::uint64_t steps_until_cut) {
        const Disk promised = now;
        flushing = now;
        inner->parks = true;
        const Request request{.op = Op::flush};
        const Task<> task = session->serve(ring.io(), request);
        for (std::uint64_t step = 0; !task.done(); ++step) {
            if (step == steps_until_cut) return false;
            if (pick(3) == 0) write_some();
            inner->resume(0);
        }
        inner->parks = false;
        EXPECT_TRUE(task.result().ok());
        durable = promised;
        return true;
    }
    void cut_power() {
        const Request request{.length = kBlock, .op = Op::discard};
        EXPECT_EQ(session->serve(ring.io(), request).result().error(), EIO);
    }
    // What the disk holds after the cut: of each block the flushed write, or, if a flush was
    // interrupted, the one it was about to make durable.
    void check_disk(bool interrupted) {
        for (std::uint64_t block = 0; block < kBlocks; ++block) {
            std::array<std::uint64_t, kBlock / sizeof(std::uint64_t)> words{};
            std::memcpy(words.data(), inner->content.data() + block * kBlock, kBlock);
            for (const std::uint64_t word : words) ASSERT_EQ(word, words[0]) << "torn";
            ASSERT_TRUE(words[0] == durable[block] || (interrupted && words[0] == flushing[block]))
                << "block " << block << " holds " << words[0] << ", flushed was " << durable[block];
        }
    }

    std::mt19937_64 random{20'240'611};
    std::uint64_t last_number = 0;
    Disk now, durable, flushing;
};

TEST_F(CrashTest, WhatAFlushPromisedIsThereAndNothingElse) {
    int interrupted = 0;
    for (int round = 0; round < 300; ++round) {
        open({.flush = true, .discard = true, .write_zeroes = true},
             {{.kind = Kind::power_cut, .operations = {Op::discard}}});
        now = durable = flushing = Disk(kBlocks, 0);
        bool whole = true;
        for (std::uint64_t left = 10 + pick(60); left > 0 && whole; --left) {
            if (pick(6) == 0) {
                whole = flush(pick(4) == 0 ? pick(6) : ~0ULL);
            } else {
                write_some();
            }
            if (whole) check_reads();
            if (HasFatalFailure()) return;
        }
        // An interrupted flush's frame is gone with its task by now, as it is with a dead process.
        cut_power();
        check_disk(!whole);
        if (HasFatalFailure()) return;
        interrupted += whole ? 0 : 1;
    }
    EXPECT_GT(interrupted, 30) << "else the test does not see what it is for";
}

}  // namespace
}  // namespace ashlar
