#include <ashlar/result.h>

#include <cerrno>
#include <limits>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

TEST(Error, SaysWhatWasTriedAndTheErrno) {
    const Error error{.operation = "open the thing", .code = ENOENT};
    EXPECT_EQ(error.message(), "open the thing: (ENOENT: No such file or directory)");
}

TEST(Error, SaysOnWhichDevice) {
    const Error error{.operation = "stop device", .code = EBUSY, .device = 0};
    EXPECT_EQ(error.message(), "stop device ublk0: (EBUSY: Device or resource busy)");
}

TEST(Error, SaysWhatWasWrongAndWhatToDo) {
    const Error error{.operation = "ADD_DEV",
                      .code = EEXIST,
                      .device = 12,
                      .detail = "the id is in use",
                      .hint = "choose another id"};
    EXPECT_EQ(error.message(),
              "ADD_DEV ublk12: the id is in use (EEXIST: File exists); choose another id");
}

TEST(Error, AHintAlone) {
    const Error error{.operation = "x", .code = EPERM, .hint = "run as root"};
    EXPECT_EQ(error.message(), "x: (EPERM: Operation not permitted); run as root");
}

TEST(Error, AnErrnoWithoutAName) {
    const Error error{.operation = "x", .code = 4000};
    EXPECT_EQ(error.message(), "x: (errno 4000: Unknown error 4000)");
}

TEST(Error, IsOneLine) {
    const Error error{.operation = "a", .code = EIO, .device = 1, .detail = "b", .hint = "c"};
    EXPECT_EQ(error.message().find('\n'), std::string::npos);
}

TEST(IoResult, SuccessIsACount) {
    constexpr IoResult none;
    static_assert(none.ok() && none.count() == 0 && none.error() == 0);
    const auto some = IoResult::bytes(4096);
    EXPECT_TRUE(some.ok());
    EXPECT_EQ(some.count(), 4096U);
    EXPECT_EQ(some.error(), 0);
    const auto most = IoResult::bytes(std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    EXPECT_TRUE(most.ok());
    EXPECT_EQ(most.count(), std::uint64_t{std::numeric_limits<std::int64_t>::max()});
}

TEST(IoResult, FailureIsAnErrno) {
    const IoResult error = std::errc::no_space_on_device;
    EXPECT_FALSE(error.ok());
    EXPECT_EQ(error.error(), ENOSPC);
    EXPECT_EQ(error.count(), 0U);
    EXPECT_EQ(error, IoResult::from_errno(ENOSPC));
    EXPECT_NE(error, IoResult::from_errno(EIO));
}

TEST(IoResult, AsTheKernelGivesIt) {
    EXPECT_EQ(IoResult::from_kernel(-EIO), IoResult::from_errno(EIO));
    EXPECT_EQ(IoResult::from_kernel(512), IoResult::bytes(512));
    EXPECT_EQ(IoResult::from_kernel(0), IoResult{});
}

TEST(Request, DataAsASpan) {
    std::byte data[512]{};
    const Request write{.length = 512, .op = Op::write, .buffer = Buffer::memory(data, 512)};
    EXPECT_EQ(write.bytes().data(), data);
    EXPECT_EQ(write.bytes().size(), 512U);
    const Request discard{.length = 1 << 30, .op = Op::discard};
    EXPECT_TRUE(discard.bytes().empty());
}

TEST(Buffer, OfMemory) {
    std::byte data[512]{};
    const Buffer buffer = Buffer::memory(data, 512);
    EXPECT_TRUE(buffer.is_memory());
    EXPECT_EQ(buffer.data(), data);
    EXPECT_EQ(buffer.length(), 512U);
    EXPECT_EQ(buffer.address(), reinterpret_cast<std::uintptr_t>(data));
    const Buffer part = buffer.part(100, 12);
    EXPECT_TRUE(part.is_memory());
    EXPECT_EQ(part.data(), data + 100);
    EXPECT_EQ(part.length(), 12U);
    EXPECT_TRUE(Buffer().is_memory());
    EXPECT_TRUE(Buffer().bytes().empty());
}

TEST(Buffer, OfARegisteredOne) {
    constexpr Buffer buffer = Buffer::registered(0xffff, 4096, 8192);
    static_assert(!buffer.is_memory() && buffer.index() == 0xffff);
    static_assert(buffer.address() == 4096 && buffer.length() == 8192);
    constexpr Buffer part = buffer.part(512, 1024);
    static_assert(!part.is_memory() && part.index() == 0xffff);
    static_assert(part.address() == 4096 + 512 && part.length() == 1024);
    EXPECT_FALSE(part.is_memory());
    // Of 32 MiB requests only the offset in the buffer is large; it must not wrap.
    constexpr Buffer large = Buffer::registered(0, 0xffff'f000, 4096);
    EXPECT_EQ(large.part(0, 16).address(), 0xffff'f000U);
}

}  // namespace
}  // namespace ashlar
