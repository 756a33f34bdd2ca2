// Null keeps nothing, so it does not conform; what it does do is tested here.
#include <algorithm>
#include <cerrno>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "conformance/backend_conformance.h"
#include "support/queue_fixture.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

class NullTest : public testing::Test {
protected:
    IoResult serve(Op op, std::uint64_t offset, std::uint64_t length, Buffer buffer = {}) {
        const Request request{.offset = offset, .length = length, .op = op, .buffer = buffer};
        return ring.run(session->serve(ring.io(), request));
    }
    IoResult serve(Op op, std::uint64_t offset, std::vector<std::byte>& data,
                   std::uint32_t length = 0) {
        if (length == 0) length = static_cast<std::uint32_t>(data.size());
        return serve(op, offset, length, Buffer::memory(data.data(), length));
    }

    static constexpr std::uint64_t kSize = std::uint64_t{250} << 30;
    test::RingRunner ring;
    std::shared_ptr<Backend> backend = open_null({.geometry = {.size = kSize}}).value();
    std::unique_ptr<Session> session = backend->open_session(ring.io()).value();
};

TEST_F(NullTest, SaysWhatItIs) {
    EXPECT_EQ(backend->name(), "null");
    EXPECT_EQ(backend->geometry().size, kSize);
    EXPECT_TRUE(backend->capabilities().discard);
    EXPECT_TRUE(backend->capabilities().write_zeroes);
    EXPECT_FALSE(backend->capabilities().flush);
    EXPECT_FALSE(backend->capabilities().read_only);
}

TEST_F(NullTest, ReadsZeroesAndDropsWrites) {
    std::vector<std::byte> data(8192, std::byte{0x55});
    EXPECT_TRUE(serve(Op::write, kSize - 8192, data).ok());
    EXPECT_EQ(data, std::vector<std::byte>(8192, std::byte{0x55})) << "the data is left alone";
    EXPECT_TRUE(serve(Op::read, kSize - 8192, data).ok());
    EXPECT_EQ(data, std::vector<std::byte>(8192));
}

TEST_F(NullTest, ReadsZeroesIntoWhateverBuffer) {
    std::vector<std::byte> first(4096, std::byte{1});
    std::vector<std::byte> second(8192, std::byte{2});
    EXPECT_TRUE(serve(Op::read, 0, first, 512).ok());
    EXPECT_TRUE(serve(Op::read, 0, first).ok()) << "more than before";
    EXPECT_EQ(first, std::vector<std::byte>(4096));
    EXPECT_TRUE(serve(Op::read, 0, second).ok());
    EXPECT_EQ(second, std::vector<std::byte>(8192));
    std::ranges::fill(first, std::byte{3});
    EXPECT_TRUE(serve(Op::read, 0, first).ok());
    EXPECT_EQ(first, std::vector<std::byte>(4096));
}

// Some kernels only warn of a write to a read-only disk, and let it through. The engine refuses it,
// but by then its data is in the tag's buffer.
using NullQueueTest = test::QueueFixture;

TEST_F(NullQueueTest, ReadsZeroesAlsoAfterAWriteThatTheEngineRefused) {
    namespace abi = kernel::abi;
    config.capabilities = {.read_only = true};
    queue = open(open_null({.geometry = {.size = 1 << 20}}).value()).value();
    queue->fetch_all();
    auto* buffer = reinterpret_cast<std::byte*>(reactor.find(0, 0)->io.addr);
    EXPECT_EQ(serve(test::make_descriptor(abi::io_op_read, 0, 8)), 4096);
    std::fill_n(buffer, 4096, std::byte{0x5a});  // what the kernel does for a write
    EXPECT_EQ(serve(test::make_descriptor(abi::io_op_write, 0, 8)), -EROFS);
    EXPECT_EQ(serve(test::make_descriptor(abi::io_op_read, 0, 8)), 4096);
    EXPECT_EQ(std::count(buffer, buffer + 4096, std::byte{0}), 4096);
}

TEST_F(NullTest, DiscardsAndWritesZeroes) {
    EXPECT_TRUE(serve(Op::discard, 0, kSize).ok());
    EXPECT_TRUE(serve(Op::write_zeroes, 0, kSize).ok());
}

TEST_F(NullTest, RefusesWhatItDoesNotAdvertise) {
    EXPECT_EQ(serve(Op::flush, 0, 0).error(), EOPNOTSUPP);
    EXPECT_EQ(serve(Op::zone_open, 0, 512).error(), EOPNOTSUPP);
}

TEST_F(NullTest, SaysThatItOnlyRoutes) { EXPECT_EQ(backend->data_access(), DataAccess::routes); }

TEST_F(NullTest, ReadsZeroesIntoRegisteredBuffers) {
    const test::RegisteredMemory memory(ring, 1 << 20);
    std::ranges::fill(memory.bytes(), std::byte{7});
    EXPECT_TRUE(serve(Op::write, 0, 4096, memory.buffer(0, 4096)).ok());
    EXPECT_TRUE(serve(Op::read, 0, 4096, memory.buffer(4096, 4096)).ok());
    for (std::size_t i = 0; i < 3 * 4096; ++i) {
        ASSERT_EQ(memory.bytes()[i], i / 4096 == 1 ? std::byte{0} : std::byte{7}) << i;
    }
    EXPECT_TRUE(serve(Op::read, 0, 1 << 20, memory.buffer()).ok());
    EXPECT_EQ(std::ranges::count(memory.bytes(), std::byte{0}), 1 << 20);
}

TEST_F(NullTest, AShortFillGoesOnWhereItStopped) {
    test::FakeReactor reactor;
    OffloadPool offload;
    IoScope scope(reactor, offload);
    Arena arena(nullptr, 0);
    Io io(arena, scope);
    const auto start = [&] {
        return session->serve(
            io, {.length = 8192, .op = Op::read, .buffer = Buffer::registered(3, 0, 8192)});
    };
    using Kind = test::FakeReactor::Kind;
    const Task<> task = start();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 5000));
    ASSERT_FALSE(task.done());
    const Buffer rest = reactor.pending().at(0).submission->buffer;
    EXPECT_EQ(rest.index(), 3);
    EXPECT_EQ(rest.address(), 5000U);
    EXPECT_EQ(rest.length(), 3192U);
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 3192));
    ASSERT_TRUE(task.done());
    EXPECT_TRUE(task.result().ok());
    const Task<> failed = start();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, -EFAULT));
    EXPECT_EQ(failed.result().error(), EFAULT);
    const Task<> endless = start();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 0));
    EXPECT_EQ(endless.result().error(), EIO);
}

TEST_F(NullTest, WithoutFillItLeavesWhatIsReadAlone) {
    backend = open_null({.geometry = {.size = kSize}, .fill = false}).value();
    session = backend->open_session(ring.io()).value();
    std::vector<std::byte> data(4096, std::byte{0x55});
    EXPECT_TRUE(serve(Op::read, 0, data).ok());
    EXPECT_EQ(data, std::vector<std::byte>(4096, std::byte{0x55}));
    EXPECT_TRUE(serve(Op::read, 0, 4096, Buffer::registered(9, 0, 4096)).ok());
}

TEST(Null, IsToldFromADiskByTheConformanceSuite) {
    const std::string violation = test::check_conformance(
        {.open = [] { return open_null({.geometry = {.size = 1 << 20}}); }});
    EXPECT_NE(violation.find(" gave 0 instead of "), std::string::npos) << violation;
}

TEST(Null, RefusesWhatMakesNoDisk) {
    auto none = open_null({.geometry = {.size = 513}});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, EINVAL);
}

}  // namespace
}  // namespace ashlar
