// Null keeps nothing, so it does not conform; what it does do is tested here.
#include <algorithm>
#include <cerrno>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "conformance/backend_conformance.h"
#include "core/queue.h"
#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace ashlar {
namespace {

class NullTest : public testing::Test {
protected:
    IoResult serve(Op op, std::uint64_t offset, std::uint64_t length, std::byte* data = nullptr) {
        Arena arena(nullptr, 0);
        Io io(arena);
        const Request request{.offset = offset, .length = length, .op = op, .data = data};
        const Task<> task = session->serve(io, request);
        EXPECT_TRUE(task.done());
        return task.result();
    }

    static constexpr std::uint64_t kSize = std::uint64_t{250} << 30;
    std::shared_ptr<Backend> backend = open_null({.geometry = {.size = kSize}}).value();
    std::unique_ptr<Session> session = backend->open_session().value();
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
    EXPECT_TRUE(serve(Op::write, kSize - 8192, 8192, data.data()).ok());
    EXPECT_EQ(data, std::vector<std::byte>(8192, std::byte{0x55})) << "the data is left alone";
    EXPECT_TRUE(serve(Op::read, kSize - 8192, 8192, data.data()).ok());
    EXPECT_EQ(data, std::vector<std::byte>(8192));
}

TEST_F(NullTest, ReadsZeroesIntoWhateverBuffer) {
    std::vector<std::byte> first(4096, std::byte{1});
    std::vector<std::byte> second(8192, std::byte{2});
    EXPECT_TRUE(serve(Op::read, 0, 512, first.data()).ok());
    EXPECT_TRUE(serve(Op::read, 0, 4096, first.data()).ok()) << "more than before";
    EXPECT_EQ(first, std::vector<std::byte>(4096));
    EXPECT_TRUE(serve(Op::read, 0, 8192, second.data()).ok());
    EXPECT_EQ(second, std::vector<std::byte>(8192));
    std::ranges::fill(first, std::byte{3});
    EXPECT_TRUE(serve(Op::read, 0, 4096, first.data()).ok());
    EXPECT_EQ(first, std::vector<std::byte>(4096));
}

// Some kernels only warn of a write to a read-only disk, and let it through. The engine refuses it,
// but by then its data is in the tag's buffer.
TEST_F(NullTest, ReadsZeroesAlsoAfterAWriteThatTheEngineRefused) {
    namespace abi = kernel::abi;
    test::FakeCharDevice kernel;
    test::FakeReactor reactor;
    auto owner = std::make_shared<test::RecordingOwner>();
    const QueueConfig config{.depth = 1, .io_max = 4096, .capabilities = {.read_only = true}};
    auto queue =
        Queue::open(config, kernel.device(), reactor, std::move(session), owner->counters, owner);
    ASSERT_TRUE(queue);
    (*queue)->fetch_all();
    auto* buffer = reinterpret_cast<std::byte*>(reactor.find(0, 0)->io.addr);
    kernel.put(0, 0, test::make_descriptor(abi::io_op_read, 0, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_ok));
    std::fill_n(buffer, 4096, std::byte{0x5a});  // what the kernel does for a write
    kernel.put(0, 0, test::make_descriptor(abi::io_op_write, 0, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_ok));
    ASSERT_EQ(reactor.find(0, 0)->io.result, -EROFS);
    kernel.put(0, 0, test::make_descriptor(abi::io_op_read, 0, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_ok));
    EXPECT_EQ(std::count(buffer, buffer + 4096, std::byte{0}), 4096);
    (*queue)->reactor_gone();
}

TEST_F(NullTest, DiscardsAndWritesZeroes) {
    EXPECT_TRUE(serve(Op::discard, 0, kSize).ok());
    EXPECT_TRUE(serve(Op::write_zeroes, 0, kSize).ok());
}

TEST_F(NullTest, RefusesWhatItDoesNotAdvertise) {
    EXPECT_EQ(serve(Op::flush, 0, 0).error(), EOPNOTSUPP);
    EXPECT_EQ(serve(Op::zone_open, 0, 512).error(), EOPNOTSUPP);
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
