#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
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

// ---- In a file ---------------------------------------------------------------------------------

// A memory file without a name.
class MemoryFile {
public:
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(fd()); }
    // Bytes that it takes of the machine's memory.
    [[nodiscard]] std::uint64_t taken() const {
        struct stat about{};
        EXPECT_EQ(fstat(fd(), &about), 0);
        return static_cast<std::uint64_t>(about.st_blocks) * 512;
    }

private:
    Fd fd_{memfd_create("ashlar-test", MFD_CLOEXEC)};
};

std::string file_conformance(std::uint64_t size) {
    const auto open = [size] {
        const MemoryFile file;
        return open_memory({.geometry = {.size = size}, .file = file.path()});
    };
    return test::check_conformance({.open = open});
}

TEST(MemoryOfFile, Conforms) { EXPECT_EQ(file_conformance(3 << 20), ""); }

TEST(MemoryOfFile, ConformsWithASizeThatIsNoMultipleOfAPage) {
    EXPECT_EQ(file_conformance((1 << 20) + 3 * 512), "");
}

class MemoryOfFileTest : public MemoryTest {
protected:
    MemoryOfFileTest() { open(); }
    void open() {
        session.reset();
        backend.reset();
        backend = open_memory({.geometry = {.size = kSize}, .file = file.path()}).value();
        session = backend->open_session(ring.io()).value();
    }
    IoResult write(std::uint64_t offset, std::uint32_t length, int value) {
        std::vector<std::byte> data(length, static_cast<std::byte>(value));
        return serve(Op::write, offset, length, data.data());
    }
    std::byte* locate(Op op, std::uint64_t offset, std::uint64_t length) {
        return session->locate({.offset = offset, .length = length, .op = op});
    }
    // Whether the range reads as this value.
    bool holds(std::uint64_t offset, std::uint32_t length, int value) {
        return read(offset, length) ==
               std::vector<std::byte>(length, static_cast<std::byte>(value));
    }
    MemoryFile file;
};

TEST_F(MemoryOfFileTest, ReadingTakesNoMemory) {
    EXPECT_TRUE(holds(0, kSize, 0));
    EXPECT_EQ(locate(Op::read, 0, 4096), nullptr) << "whoever reads there takes a page";
    EXPECT_EQ(file.taken(), 0U);
    ASSERT_TRUE(write(5 * 4096 + 512, 512, 7).ok());
    EXPECT_TRUE(holds(5 * 4096 + 512, 512, 7));
    EXPECT_EQ(locate(Op::read, 4 * 4096, 2 * 4096), nullptr) << "only half of it was written";
    EXPECT_NE(locate(Op::read, 5 * 4096, 4096), nullptr);
    EXPECT_TRUE(holds(0, 5 * 4096 + 512, 0));
    EXPECT_TRUE(holds(5 * 4096 + 1024, kSize - 5 * 4096 - 1024, 0));
    EXPECT_EQ(file.taken(), 4096U);
}

TEST_F(MemoryOfFileTest, ReadsWhatWasWrittenHereAndThere) {
    std::vector<std::byte> expected(kSize);
    for (const std::uint64_t offset : {0, 3 * 4096 - 512, 63 * 4096, 64 * 4096 + 512, 200 * 4096}) {
        ASSERT_TRUE(write(offset, 1024, 9).ok());
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(offset), 1024, std::byte{9});
    }
    EXPECT_EQ(read(0, kSize), expected);
}

TEST_F(MemoryOfFileTest, WhatTheKernelPutsInPlaceIsRead) {
    std::byte* const place = locate(Op::write, 8192, 4096);
    ASSERT_NE(place, nullptr);
    std::memset(place, 5, 4096);
    EXPECT_TRUE(holds(8192, 4096, 5));
    EXPECT_EQ(locate(Op::read, 8192, 4096), place);
}

TEST_F(MemoryOfFileTest, AnotherServerFindsWhatIsThere) {
    ASSERT_TRUE(write(4096, 4096, 7).ok());
    // As by a server that was killed before it could note anything.
    ASSERT_EQ(pwrite(file.fd(), "x", 1, 9 * 4096), 1);
    open();
    EXPECT_TRUE(holds(4096, 4096, 7));
    EXPECT_TRUE(holds(9 * 4096, 1, 'x'));
    EXPECT_TRUE(holds(10 * 4096, 64 * 4096, 0));
    EXPECT_EQ(file.taken(), 2 * 4096U);
}

TEST_F(MemoryOfFileTest, DiscardedPagesGoBack) {
    ASSERT_TRUE(write(0, 8 * 4096, 7).ok());
    ASSERT_TRUE(serve(Op::discard, 512, 4 * 4096).ok());
    EXPECT_EQ(file.taken(), 5 * 4096U);
    EXPECT_TRUE(holds(0, 512, 7));
    EXPECT_TRUE(holds(512, 4 * 4096, 0));
    EXPECT_TRUE(holds(512 + 4 * 4096, 3 * 4096, 7));
    ASSERT_TRUE(serve(Op::write_zeroes, 0, 8 * 4096).ok());
    ASSERT_TRUE(serve(Op::discard, 10 * 4096 + 512, 512).ok());
    ASSERT_TRUE(serve(Op::discard, 20 * 4096 + 512, 4096).ok());
    EXPECT_TRUE(holds(0, kSize, 0));
    EXPECT_EQ(file.taken(), 0U) << "what is zero already takes none";
}

TEST_F(MemoryOfFileTest, ZeroesThatKeepTheirSpaceTakeIt) {
    ASSERT_TRUE(serve(Op::write_zeroes, 0, 8192, nullptr, true).ok());
    EXPECT_EQ(file.taken(), 8192U);
    EXPECT_NE(locate(Op::read, 0, 8192), nullptr);
}

TEST_F(MemoryOfFileTest, ForgetsWhatIsCutOff) {
    ASSERT_TRUE(write(0, kSize, 7).ok());
    ASSERT_TRUE(backend->resize(4096 + 512));
    EXPECT_EQ(file.taken(), 8192U);
    ASSERT_TRUE(backend->resize(2 * kSize));
    EXPECT_TRUE(holds(0, 4096 + 512, 7));
    EXPECT_TRUE(holds(4096 + 512, kSize, 0)) << "also in the same page";
    ASSERT_TRUE(write(2 * kSize - 512, 512, 8).ok());
    EXPECT_TRUE(holds(2 * kSize - 512, 512, 8));
    EXPECT_EQ(file.taken(), 3 * 4096U);
}

TEST_F(MemoryOfFileTest, IsOneDisks) {
    const MemoryOptions options{.geometry = {.size = kSize}, .file = file.path()};
    const auto refused = open_memory(options);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EBUSY);
    EXPECT_EQ(refused.error().detail, "another disk is in " + options.file);
    session.reset();
    backend.reset();
    EXPECT_TRUE(open_memory(options)) << "what only holds the file does not lock it";
}

TEST_F(MemoryOfFileTest, IsWaitedForUntilWhoWasKilledIsGone) {
    std::thread letting_go([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        session.reset();
        backend.reset();
    });
    EXPECT_TRUE(open_memory({.geometry = {.size = kSize}, .file = file.path()}));
    letting_go.join();
}

// Either may come first; but what a discard has hidden must not come to light by a later write.
TEST_F(MemoryOfFileTest, AWriteBesideADiscardIsThereOrGone) {
    constexpr int kRounds = 3000;
    int changed = 0;
    const auto other = backend->open_session(ring.io()).value();
    std::barrier both(2);
    std::thread discarding([&] {
        test::RingRunner own;
        for (int i = 0; i < kRounds; ++i) {
            both.arrive_and_wait();
            const Request discard{.offset = 0, .length = 4096, .op = Op::discard};
            EXPECT_TRUE(other->serve(own.io(), discard).result().ok());
            both.arrive_and_wait();
        }
    });
    for (int i = 0; i < kRounds; ++i) {
        both.arrive_and_wait();
        EXPECT_TRUE(write(0, 512, 7).ok());
        both.arrive_and_wait();
        const std::vector<std::byte> now = read(0, 512);
        EXPECT_TRUE(write(512, 512, 8).ok());
        changed += read(0, 512) == now ? 0 : 1;
    }
    discarding.join();
    EXPECT_EQ(changed, 0);
}

}  // namespace
}  // namespace ashlar
