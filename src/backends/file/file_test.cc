#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "backends/file/test_directory.h"
#include "backends/file/underneath.h"
#include "conformance/backend_conformance.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using file::TestDirectory;
constexpr std::uint64_t kSize = 4 << 20;

// Whole pages, as a queue's buffers are.
class Pages {
public:
    explicit Pages(std::size_t size, char fill = 0)
        : bytes_(static_cast<std::byte*>(std::aligned_alloc(4096, size))), size_(size) {
        std::memset(bytes_.get(), fill, size);
    }
    [[nodiscard]] Buffer buffer() const {
        return Buffer::memory(bytes_.get(), static_cast<std::uint32_t>(size_));
    }
    [[nodiscard]] bool all(char value) const {
        for (std::size_t i = 0; i < size_; ++i) {
            if (bytes_.get()[i] != static_cast<std::byte>(value)) return false;
        }
        return true;
    }

private:
    struct Free {
        void operator()(std::byte* bytes) const { std::free(bytes); }
    };
    std::unique_ptr<std::byte, Free> bytes_;
    std::size_t size_;
};

// A disk and one session of it, served on a real ring.
class Disk {
public:
    explicit Disk(const FileOptions& options) {
        auto opened = open_file(options);
        if (!opened) throw std::runtime_error(opened.error().message());
        backend = std::move(*opened);
        session = backend->open_session(ring.io()).value();
    }

    IoResult serve(const Request& request) { return ring.run(session->serve(ring.io(), request)); }
    IoResult write(std::uint64_t offset, std::size_t length, char fill, bool fua = false) {
        const Pages data(length, fill);
        return serve({.offset = offset,
                      .length = length,
                      .op = Op::write,
                      .fua = fua,
                      .buffer = data.buffer()});
    }
    bool holds(std::uint64_t offset, std::size_t length, char value) {
        const Pages data(length, 'u');
        const Request request{
            .offset = offset, .length = length, .op = Op::read, .buffer = data.buffer()};
        return serve(request).ok() && data.all(value);
    }
    IoResult read(std::uint64_t offset, std::size_t length) {
        const Pages data(length);
        return serve({.offset = offset, .length = length, .op = Op::read, .buffer = data.buffer()});
    }
    IoResult flush() { return serve({.op = Op::flush}); }
    IoResult discard(std::uint64_t offset, std::uint64_t length) {
        return serve({.offset = offset, .length = length, .op = Op::discard});
    }
    IoResult write_zeroes(std::uint64_t offset, std::uint64_t length, bool no_unmap) {
        return serve(
            {.offset = offset, .length = length, .op = Op::write_zeroes, .no_unmap = no_unmap});
    }

    test::RingRunner ring;
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
};

enum class Kind { buffered, direct, memory };

class FileTest : public testing::TestWithParam<Kind> {
protected:
    FileTest()
        : directory(GetParam() == Kind::memory ? TestDirectory::kMemory
                                               : TestDirectory::storage()) {}
    void SetUp() override {
        if (direct() && !directory.has_direct_io()) {
            GTEST_SKIP() << "no O_DIRECT in " << directory.path();
        }
    }
    [[nodiscard]] static bool direct() { return GetParam() == Kind::direct; }
    [[nodiscard]] FileOptions options() const {
        return {.path = directory.file("disk", kSize), .direct = direct()};
    }

    const TestDirectory directory;
};

INSTANTIATE_TEST_SUITE_P(, FileTest, testing::Values(Kind::buffered, Kind::direct, Kind::memory),
                         [](const auto& kind) -> std::string {
                             if (kind.param == Kind::buffered) return "buffered";
                             return kind.param == Kind::direct ? "direct" : "tmpfs";
                         });

TEST_P(FileTest, SaysWhatItIs) {
    const Disk disk(options());
    EXPECT_EQ(disk.backend->name(), "file");
    EXPECT_EQ(disk.backend->data_access(), DataAccess::routes);
    const Geometry geometry = disk.backend->geometry();
    EXPECT_TRUE(check_geometry(geometry));
    EXPECT_EQ(geometry.size, kSize);
    if (!direct()) {
        EXPECT_EQ(geometry.logical_block_size, 512U);
    }
    EXPECT_EQ(geometry.dma_alignment != 0, direct());
    const Capabilities can = disk.backend->capabilities();
    EXPECT_TRUE(can.flush);
    EXPECT_EQ(can.fua, direct());
    EXPECT_FALSE(can.read_only);
}

// options: of the disk, with a directory for a path; the suite asks for fresh ones.
std::string conformance(FileOptions options, unsigned operations = 300) {
    const std::string directory = options.path;
    int disks = 0;
    options.create = true;
    const auto open = [&] {
        options.path = directory + "/conformance-" + std::to_string(disks++);
        return open_file(options);
    };
    return test::check_conformance({.open = open, .operations = operations});
}

TEST_P(FileTest, Conforms) {
    const FileOptions options{.path = directory.path(), .direct = direct(), .size = kSize};
    EXPECT_EQ(conformance(options, 1500), "");
}

TEST_P(FileTest, ConformsWithBlocksOf4096) {
    EXPECT_EQ(conformance({.path = directory.path(),
                           .direct = direct(),
                           .size = kSize,
                           .logical_block_size = 4096}),
              "");
}

TEST_P(FileTest, ConformsAsAWindow) {
    // Neither end is that of a page, where blocks are smaller.
    const std::uint64_t block = Disk(options()).backend->geometry().logical_block_size;
    EXPECT_EQ(conformance({.path = directory.path(),
                           .offset = 9 * block,
                           .length = (2 << 20) + 3 * block,
                           .direct = direct(),
                           .size = kSize}),
              "");
}

TEST_P(FileTest, ConformsWithItsSpaceTakenInAdvance) {
    EXPECT_EQ(
        conformance(
            {.path = directory.path(), .direct = direct(), .size = kSize, .preallocate = true}),
        "");
}

TEST_P(FileTest, GrowsAndShrinksWithItsFile) {
    Disk disk(options());
    ASSERT_TRUE(disk.backend->resize(2 * kSize));
    EXPECT_EQ(disk.backend->geometry().size, 2 * kSize);
    EXPECT_EQ(disk.write(2 * kSize - 4096, 4096, 'g'), IoResult::bytes(4096));
    ASSERT_TRUE(disk.backend->resize(kSize));
    ASSERT_TRUE(disk.backend->resize(2 * kSize));
    EXPECT_TRUE(disk.holds(2 * kSize - 4096, 4096, 0));
}

TEST_P(FileTest, APartOfAFileStaysWithinIt) {
    FileOptions part = options();
    part.offset = 4096;
    part.length = 8192;
    Disk disk(part);
    ASSERT_TRUE(disk.backend->resize(kSize - 4096));
    const auto refused = disk.backend->resize(kSize);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ENOSPC);
    EXPECT_EQ(disk.backend->geometry().size, kSize - 4096);
}

TEST_P(FileTest, ServesReadsWritesAndFlushes) {
    Disk disk(options());
    EXPECT_EQ(disk.write(8192, 65536, 'w'), IoResult::bytes(65536));
    EXPECT_TRUE(disk.write(0, 4096, 'f', disk.backend->capabilities().fua).ok());
    EXPECT_TRUE(disk.flush().ok());
    const auto counters = disk.backend->counters();
    ASSERT_EQ(counters.size(), 1U);
    EXPECT_EQ(counters[0].name, "syncs");
    EXPECT_EQ(counters[0].value, 1U);
    EXPECT_TRUE(disk.holds(0, 4096, 'f'));
    EXPECT_TRUE(disk.holds(4096, 4096, 0));
    EXPECT_TRUE(disk.holds(8192, 65536, 'w'));
}

TEST_P(FileTest, ManyRequestsAreInFlightAtOnce) {
    Disk disk(options());
    constexpr std::size_t kCount = 32;
    std::vector<Pages> data;
    std::vector<Request> requests;
    std::vector<Task<>> tasks;
    tasks.reserve(kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
        data.emplace_back(4096, static_cast<char>('a' + i));
        requests.push_back(
            {.offset = i * 4096, .length = 4096, .op = Op::write, .buffer = data.back().buffer()});
    }
    for (const Request& request : requests) {
        tasks.push_back(disk.session->serve(disk.ring.io(), request));
    }
    for (Task<>& task : tasks) {
        disk.ring.run_until([&] { return task.done(); });
        EXPECT_EQ(task.result(), IoResult::bytes(4096));
    }
    for (std::size_t i = 0; i < kCount; ++i) {
        EXPECT_TRUE(disk.holds(i * 4096, 4096, static_cast<char>('a' + i))) << i;
    }
}

TEST_P(FileTest, AWindowIsAllThatIsTouched) {
    const std::string path = directory.text("disk", std::string(kSize, 'o'));
    {
        Disk disk({.path = path, .offset = 65536, .length = 131072, .direct = direct()});
        EXPECT_EQ(disk.backend->geometry().size, 131072U);
        EXPECT_TRUE(disk.holds(0, 131072, 'o'));
        EXPECT_TRUE(disk.write(0, 4096, 'w').ok());
        EXPECT_TRUE(disk.write(131072 - 4096, 4096, 'w').ok());
        EXPECT_TRUE(disk.write_zeroes(4096, 131072 - 8192, false).ok());
        EXPECT_TRUE(disk.flush().ok());
    }
    Disk whole({.path = path});
    EXPECT_TRUE(whole.holds(0, 65536, 'o'));
    EXPECT_TRUE(whole.holds(65536, 4096, 'w'));
    EXPECT_TRUE(whole.holds(65536 + 4096, 131072 - 8192, 0));
    EXPECT_TRUE(whole.holds(65536 + 131072 - 4096, 4096, 'w'));
    EXPECT_TRUE(whole.holds(65536 + 131072, 1 << 20, 'o'));
}

TEST_P(FileTest, DiscardAndWriteZeroesGiveSpaceBack) {
    Disk disk(options());
    if (!disk.backend->capabilities().discard) {
        GTEST_SKIP() << "no holes in " << directory.path();
    }
    const auto fill = [&] {
        for (std::uint64_t at = 0; at < kSize; at += 1 << 20) {
            ASSERT_TRUE(disk.write(at, 1 << 20, 'x').ok());
        }
        ASSERT_TRUE(disk.flush().ok());
        ASSERT_GE(file::space_of(directory / "disk"), kSize);
    };
    fill();
    EXPECT_TRUE(disk.discard(1 << 20, 3 << 20).ok());
    EXPECT_LE(file::space_of(directory / "disk"), kSize - (3 << 20) + 65536);
    fill();
    EXPECT_TRUE(disk.write_zeroes(1 << 20, 3 << 20, false).ok());
    EXPECT_LE(file::space_of(directory / "disk"), kSize - (3 << 20) + 65536);
    EXPECT_TRUE(disk.holds(0, 1 << 20, 'x'));
    EXPECT_TRUE(disk.holds(1 << 20, 1 << 20, 0));
    EXPECT_EQ(std::filesystem::file_size(directory / "disk"), kSize);
}

TEST_P(FileTest, ZeroesThatMayNotUnmapTakeSpace) {
    Disk disk(options());
    if (!disk.backend->capabilities().write_zeroes) {
        GTEST_SKIP() << "no holes in " << directory.path();
    }
    ASSERT_TRUE(disk.write(0, 1 << 20, 'x').ok());
    // Over what is there and over a hole, and no whole number of the pieces that zeroes come in.
    EXPECT_TRUE(disk.write_zeroes(4096, kSize - 12288, true).ok());
    EXPECT_TRUE(disk.flush().ok());
    EXPECT_GE(file::space_of(directory / "disk"), kSize - 8192);
    EXPECT_TRUE(disk.holds(0, 4096, 'x'));
    for (std::uint64_t at = 4096; at + (1 << 20) < kSize; at += 1 << 20) {
        EXPECT_TRUE(disk.holds(at, 1 << 20, 0)) << at;
    }
}

TEST_P(FileTest, SpaceTakenInAdvanceIsKept) {
    Disk disk({.path = directory / "made",
               .direct = direct(),
               .create = true,
               .size = kSize,
               .preallocate = true});
    ASSERT_GE(file::space_of(directory / "made"), kSize);
    EXPECT_FALSE(disk.backend->capabilities().discard) << "it would give the space to others";
    EXPECT_FALSE(disk.discard(0, kSize).ok());
    ASSERT_TRUE(disk.write(0, 1 << 20, 'x').ok());
    if (disk.backend->capabilities().write_zeroes) {
        EXPECT_TRUE(disk.write_zeroes(0, kSize, false).ok());
        EXPECT_TRUE(disk.holds(0, 1 << 20, 0));
    }
    EXPECT_TRUE(disk.flush().ok());
    EXPECT_GE(file::space_of(directory / "made"), kSize);
}

TEST_P(FileTest, AFileThatWasCutOffIsAnErrorNotZeroes) {
    Disk disk(options());
    ASSERT_TRUE(disk.write(0, 1 << 20, 'x').ok());
    std::filesystem::resize_file(directory / "disk", 5000);
    EXPECT_TRUE(disk.holds(0, 4096, 'x'));
    EXPECT_EQ(disk.read(4096, 4096).error(), EIO) << "the end is in it";
    EXPECT_EQ(disk.read(0, 65536).error(), EIO);
    EXPECT_EQ(disk.read(8192, 4096).error(), EIO) << "past the end";
    EXPECT_EQ(disk.read(kSize - 4096, 4096).error(), EIO);
}

TEST_P(FileTest, ReadOnlyMeansReadOnly) {
    const std::string path = directory.text("disk", std::string(kSize, 'o'));
    Disk disk({.path = path, .direct = direct(), .read_only = true});
    const Capabilities can = disk.backend->capabilities();
    EXPECT_TRUE(can.read_only);
    EXPECT_FALSE(can.flush || can.fua || can.discard || can.write_zeroes);
    EXPECT_EQ(disk.write(0, 4096, 'w').error(), EROFS);
    EXPECT_EQ(disk.flush().error(), EOPNOTSUPP);
    EXPECT_EQ(disk.discard(0, 4096).error(), EOPNOTSUPP);
    EXPECT_EQ(disk.write_zeroes(0, 4096, false).error(), EOPNOTSUPP);
    EXPECT_TRUE(disk.holds(0, 65536, 'o'));
}

TEST_P(FileTest, ZoneOperationsAreRefused) {
    Disk disk(options());
    for (const Op op : {Op::zone_open, Op::zone_append, Op::report_zones, Op::unknown}) {
        EXPECT_EQ(disk.serve({.op = op}).error(), EOPNOTSUPP);
    }
}

TEST_P(FileTest, SessionsSeeTheSameDisk) {
    Disk disk(options());
    test::RingRunner other_ring;
    auto other = disk.backend->open_session(other_ring.io()).value();
    ASSERT_TRUE(disk.write(4096, 4096, 'w').ok());
    EXPECT_TRUE(other_ring.run(other->serve(other_ring.io(), {.op = Op::flush})).ok());
    const Pages data(4096);
    const Request request{.offset = 4096, .length = 4096, .op = Op::read, .buffer = data.buffer()};
    EXPECT_TRUE(other_ring.run(other->serve(other_ring.io(), request)).ok());
    EXPECT_TRUE(data.all('w'));
}

TEST_P(FileTest, TheLockLastsAsLongAsTheBackend) {
    std::optional<Disk> disk(options());
    const std::string path = directory / "disk";
    EXPECT_EQ(open_file({.path = path}).error().code, EBUSY);
    disk->session.reset();
    EXPECT_EQ(open_file({.path = path}).error().code, EBUSY) << "a session's end is not its end";
    disk.reset();
    EXPECT_TRUE(open_file({.path = path}));
}

TEST_P(FileTest, WhatIsCancelledEndsAndLosesNothing) {
    Disk disk(options());
    ASSERT_TRUE(disk.write(0, 4096, 'x').ok());
    disk.ring.cancel();
    EXPECT_EQ(disk.read(0, 4096).error(), ECANCELED);
    EXPECT_EQ(disk.flush().error(), ECANCELED);
    test::RingRunner ring;
    auto session = disk.backend->open_session(ring.io()).value();
    EXPECT_TRUE(ring.run(session->serve(ring.io(), {.op = Op::flush})).ok());
}

// The names of this process's threads that io_uring made for what would wait.
std::size_t ring_workers() {
    std::size_t count = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::string name;
        std::ifstream(task.path() / "comm") >> name;
        count += name.starts_with("iou-wrk") ? 1 : 0;
    }
    return count;
}

TEST(FileOnTmpfs, NeedsNoThreadToReadAndWrite) {
    const TestDirectory memory(TestDirectory::kMemory);
    if (!memory.takes_direct()) GTEST_SKIP() << "tmpfs has O_DIRECT since Linux 6.6";
    const std::size_t before = ring_workers();
    Disk disk({.path = memory.file("disk", kSize)});
    for (std::uint64_t at = 0; at < kSize; at += 65536) {
        ASSERT_TRUE(disk.write(at, 65536, 'x').ok());
        ASSERT_TRUE(disk.read(at, 65536).ok());
    }
    EXPECT_EQ(ring_workers(), before);
    // That the count sees them: a flush always needs one.
    ASSERT_TRUE(disk.flush().ok());
    EXPECT_GT(ring_workers(), before);
}

}  // namespace
}  // namespace ashlar
