#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "base/fd.h"
#include "conformance/backend_conformance.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

std::string conformance(const MemoryOptions& options) {
    return test::check_conformance({.open = [=] { return open_memory(options); }});
}

TEST(Memory, ConformsWithBlocksOf512) {
    EXPECT_EQ(conformance({.geometry = {.size = 3 << 20, .logical_block_size = 512}}), "");
}

TEST(Memory, ConformsWithBlocksOf4096) {
    EXPECT_EQ(conformance({.geometry = {.size = 3 << 20, .logical_block_size = 4096}}), "");
}

TEST(Memory, ConformsWithASizeThatIsNoMultipleOfAPage) {
    EXPECT_EQ(conformance({.geometry = {.size = (1 << 20) + 3 * 512}}), "");
}

// Served through a session, as a queue does.
class MemoryTest : public testing::Test {
protected:
    IoResult serve(Op op, std::uint64_t offset, std::uint32_t length, std::byte* data = nullptr,
                   bool no_unmap = false) {
        const Request request{.offset = offset,
                              .length = length,
                              .op = op,
                              .no_unmap = no_unmap,
                              .buffer = Buffer::memory(data, data == nullptr ? 0 : length)};
        const Task<> task = session->serve(ring.io(), request);
        EXPECT_TRUE(task.done());
        return task.result();
    }
    std::vector<std::byte> read(std::uint64_t offset, std::uint32_t length) {
        std::vector<std::byte> data(length, std::byte{0xee});
        EXPECT_TRUE(serve(Op::read, offset, length, data.data()).ok());
        return data;
    }

    static constexpr std::uint64_t kSize = 1 << 20;
    test::RingRunner ring;
    std::shared_ptr<Backend> backend = open_memory({.geometry = {.size = kSize}}).value();
    std::unique_ptr<Session> session = backend->open_session(ring.io()).value();
};

TEST_F(MemoryTest, SaysWhatItIs) {
    EXPECT_EQ(backend->name(), "memory");
    EXPECT_EQ(backend->geometry().size, kSize);
    const Capabilities can = backend->capabilities();
    EXPECT_TRUE(can.discard);
    EXPECT_TRUE(can.write_zeroes);
    EXPECT_FALSE(can.flush) << "it has no volatile cache: it is one";
    EXPECT_FALSE(can.fua);
    EXPECT_FALSE(can.read_only);
    EXPECT_EQ(backend->data_access(), DataAccess::holds) << "the engine copies to and from it";
}

TEST_F(MemoryTest, LocatesTheBytesThemselves) {
    std::vector<std::byte> data(512, std::byte{0x42});
    ASSERT_TRUE(serve(Op::write, 1024, 512, data.data()).ok());
    const Request whole{.offset = 512, .length = 1536, .op = Op::read};
    const std::byte* bytes = session->locate(whole);
    ASSERT_NE(bytes, nullptr);
    for (std::size_t i = 0; i < 1536; ++i) {
        ASSERT_EQ(bytes[i], i >= 512 && i < 1024 ? std::byte{0x42} : std::byte{0}) << i;
    }
}

TEST_F(MemoryTest, DiscardedBytesReadAsZeroes) {
    std::vector<std::byte> data(6 * 4096, std::byte{0x77});
    ASSERT_TRUE(serve(Op::write, 0, 6 * 4096, data.data()).ok());
    ASSERT_TRUE(serve(Op::discard, 512, 4 * 4096).ok());
    const auto now = read(0, 6 * 4096);
    for (std::size_t i = 0; i < now.size(); ++i) {
        const bool hole = i >= 512 && i < 512 + 4 * 4096;
        ASSERT_EQ(now[i], hole ? std::byte{0} : std::byte{0x77}) << i;
    }
}

TEST_F(MemoryTest, GrowsInPlaceAndForgetsWhatIsCutOff) {
    std::byte* const before = session->locate({.offset = 0, .length = 512});
    ASSERT_TRUE(backend->resize(3 * kSize + 512));
    EXPECT_EQ(backend->geometry().size, 3 * kSize + 512);
    EXPECT_EQ(session->locate({.offset = 0, .length = 512}), before);
    std::vector<std::byte> data(512, std::byte{7});
    ASSERT_TRUE(serve(Op::write, 3 * kSize, 512, data.data()).ok());
    ASSERT_TRUE(serve(Op::write, kSize + 512, 512, data.data()).ok());
    EXPECT_EQ(read(3 * kSize, 512), data);
    ASSERT_TRUE(backend->resize(kSize + 512));
    ASSERT_TRUE(backend->resize(4 * kSize));
    EXPECT_EQ(read(3 * kSize, 512), std::vector<std::byte>(512));
    EXPECT_EQ(read(kSize + 512, 512), std::vector<std::byte>(512)) << "in the same page";
}

TEST_F(MemoryTest, DoesNotGrowBeyondItsAddressSpace) {
    const auto refused = backend->resize(std::uint64_t{1} << 50);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ENOMEM);
    EXPECT_EQ(backend->geometry().size, kSize);
}

TEST(Memory, AFileGrowsAndShrinksWithIt) {
    char path[] = "/dev/shm/ashlar-resize-XXXXXX";
    const Fd file(mkstemp(path));
    ASSERT_TRUE(file.valid());
    {
        const auto backend = open_memory({.geometry = {.size = 8192}, .file = path}).value();
        struct stat about{};
        for (const std::uint64_t size : {1 << 20, 4096, 12288}) {
            ASSERT_TRUE(backend->resize(size));
            ASSERT_EQ(fstat(file.get(), &about), 0);
            EXPECT_EQ(static_cast<std::uint64_t>(about.st_size), size);
        }
    }
    EXPECT_TRUE(open_memory({.geometry = {.size = 12288}, .file = path}));
    unlink(path);
}

TEST_F(MemoryTest, SessionsSeeTheSameDisk) {
    auto other = backend->open_session(ring.io()).value();
    std::vector<std::byte> data(512, std::byte{0x42});
    ASSERT_TRUE(serve(Op::write, 4096, 512, data.data()).ok());
    session = std::move(other);
    EXPECT_EQ(read(4096, 512), data);
}

TEST_F(MemoryTest, DisksAreApart) {
    std::vector<std::byte> data(512, std::byte{0x42});
    ASSERT_TRUE(serve(Op::write, 0, 512, data.data()).ok());
    auto other = open_memory({.geometry = {.size = kSize}}).value();
    session = other->open_session(ring.io()).value();
    EXPECT_EQ(read(0, 512), std::vector<std::byte>(512));
}

TEST(Memory, TakesNoMemoryBeforeItIsWritten) {
    // Far more than there is: only address space is taken.
    auto large = open_memory({.geometry = {.size = std::uint64_t{1} << 36}});
    ASSERT_TRUE(large) << large.error().message();
    test::RingRunner ring;
    auto session = (*large)->open_session(ring.io()).value();
    std::vector<std::byte> data(4096, std::byte{1});
    const Request request{.offset = (std::uint64_t{1} << 36) - 4096,
                          .length = 4096,
                          .op = Op::write,
                          .buffer = Buffer::memory(data.data(), 4096)};
    EXPECT_TRUE(session->serve(ring.io(), request).result().ok());
}

TEST(Memory, RefusesWhatMakesNoDisk) {
    auto none = open_memory({.geometry = {.size = 0}});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, EINVAL);
    EXPECT_EQ(none.error().detail, "size is 0; it must be at least one logical block");
    auto odd = open_memory({.geometry = {.size = 1000}});
    ASSERT_FALSE(odd);
    EXPECT_EQ(odd.error().code, EINVAL);
}

TEST(Memory, MoreThanTheAddressSpaceIsENOMEM) {
    auto huge = open_memory({.geometry = {.size = std::uint64_t{1} << 62}});
    ASSERT_FALSE(huge);
    EXPECT_EQ(huge.error().code, ENOMEM);
    EXPECT_EQ(huge.error().message(),
              "open memory backend: no address space for 4611686018427387904 bytes (ENOMEM: Cannot "
              "allocate memory); ask for a smaller size");
}

TEST(Memory, HugePagesAreAnOption) {
    EXPECT_EQ(conformance({.geometry = {.size = 8 << 20}, .hugepages = true}), "");
}

}  // namespace
}  // namespace ashlar
