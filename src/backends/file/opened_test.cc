#include "backends/file/opened.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <cerrno>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "backends/file/test_directory.h"

namespace ashlar::file {
namespace {

class OpenedTest : public testing::Test {
protected:
    static void expect_refused(const FileOptions& options, int code, const std::string& detail) {
        const auto opened = open_and_lock(options);
        ASSERT_FALSE(opened) << detail;
        EXPECT_EQ(opened.error().code, code);
        EXPECT_EQ(opened.error().detail, detail);
    }
    // The same as open_file has it, for what only that adds.
    static std::string message_of(const FileOptions& options) {
        const auto opened = open_file(options);
        return opened ? "it opened" : opened.error().message();
    }

    const TestDirectory directory;
};

TEST_F(OpenedTest, AWholeFileIsTheDisk) {
    const auto opened = open_and_lock({.path = directory.file("disk", 1 << 20)});
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_EQ(opened->window.offset, 0U);
    EXPECT_EQ(opened->window.length, 1U << 20);
    EXPECT_EQ(opened->logical_block, 512U);
    EXPECT_FALSE(opened->read_only);
    EXPECT_EQ(fcntl(opened->fd.get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(OpenedTest, ASizeIsRoundedDownToBlocks) {
    const std::string path = directory.file("disk", 10'000);
    EXPECT_EQ(open_and_lock({.path = path})->window.length, 9728U);
    EXPECT_EQ(open_and_lock({.path = path, .logical_block_size = 4096})->window.length, 8192U);
    EXPECT_EQ(open_and_lock({.path = path, .offset = 512})->window.length, 9216U);
}

TEST_F(OpenedTest, AWindowIsAPartOfTheFile) {
    const std::string path = directory.file("disk", 1 << 20);
    const auto opened = open_and_lock({.path = path, .offset = 4096, .length = 8192});
    ASSERT_TRUE(opened);
    EXPECT_EQ(opened->window.offset, 4096U);
    EXPECT_EQ(opened->window.length, 8192U);
    const auto end = open_and_lock({.path = directory.file("two", 8192), .offset = 8192 - 512});
    ASSERT_TRUE(end);
    EXPECT_EQ(end->window.length, 512U);
}

TEST_F(OpenedTest, RefusesWindowsThatAreNone) {
    const std::string path = directory.file("disk", 8192);
    expect_refused({.path = path, .offset = 100}, EINVAL,
                   "offset is 100; it must be a multiple of the logical block size 512");
    expect_refused({.path = path, .offset = 512, .logical_block_size = 4096}, EINVAL,
                   "offset is 512; it must be a multiple of the logical block size 4096");
    expect_refused({.path = path, .length = 1000}, EINVAL,
                   "length is 1000; it must be a multiple of the logical block size 512, not 0");
    expect_refused({.path = path, .length = 0}, EINVAL,
                   "length is 0; it must be a multiple of the logical block size 512, not 0");
    expect_refused({.path = path, .offset = 4096, .length = 8192}, EINVAL,
                   "length is 8192, but only 4096 bytes are there from offset 4096");
    expect_refused({.path = path, .length = ~std::uint64_t{511}}, EINVAL,
                   "length is 18446744073709551104, but only 8192 bytes are there from offset 0");
    expect_refused({.path = path, .offset = 8192}, EINVAL,
                   "it has 8192 bytes, from offset 8192 on less than one logical block of 512");
    expect_refused({.path = path, .offset = ~std::uint64_t{511}}, EINVAL,
                   "it has 8192 bytes, from offset 18446744073709551104 on less than one logical "
                   "block of 512");
    expect_refused({.path = directory.file("small", 511)}, EINVAL,
                   "it has 511 bytes, from offset 0 on less than one logical block of 512");
    expect_refused({.path = directory.file("empty", 0)}, EINVAL,
                   "it has 0 bytes, from offset 0 on less than one logical block of 512");
}

TEST_F(OpenedTest, RefusesOptionsThatContradict) {
    const std::string path = directory / "disk";
    expect_refused({}, EINVAL, "no path was given");
    expect_refused({.path = path, .logical_block_size = 1000}, EINVAL,
                   "logical block size is 1000; allowed are 512, 1024, 2048 and 4096");
    expect_refused({.path = path, .logical_block_size = 8192}, EINVAL,
                   "logical block size is 8192; allowed are 512, 1024, 2048 and 4096");
    expect_refused({.path = path, .read_only = true, .create = true, .size = 4096}, EINVAL,
                   "a disk that is made (create) cannot be read-only");
    expect_refused({.path = path, .create = true}, EINVAL,
                   "size is 0; a file that is made needs 1 to 2^63 - 1");
    expect_refused({.path = path, .create = true, .size = ~std::uint64_t{0}}, EINVAL,
                   "size is 18446744073709551615; a file that is made needs 1 to 2^63 - 1");
    expect_refused({.path = path, .size = 4096}, EINVAL,
                   "size is for a file that is made (create)");
    expect_refused({.path = path, .read_only = true, .preallocate = true}, EINVAL,
                   "space cannot be taken (preallocate) for a read-only disk");
    EXPECT_TRUE(directory.empty());
}

TEST_F(OpenedTest, RefusesWhatCannotBeADisk) {
    expect_refused({.path = directory.path()}, EINVAL,
                   "it is a directory; a disk needs a regular file or a block device");
    expect_refused({.path = "/dev/zero"}, EINVAL,
                   "it is a character device; a disk needs a regular file or a block device");
    const std::string pipe = directory / "pipe";
    ASSERT_EQ(mkfifo(pipe.c_str(), S_IRUSR | S_IWUSR), 0);
    expect_refused({.path = pipe}, EINVAL,
                   "it is a pipe or a socket; a disk needs a regular file or a block device");
    EXPECT_EQ(message_of({.path = directory / "none"}),
              "open " + directory.path() +
                  "/none: (ENOENT: No such file or directory); check the path, or make the file "
                  "with create and size");
    EXPECT_EQ(message_of({}), "open file backend: no path was given (EINVAL: Invalid argument)");
}

TEST_F(OpenedTest, MakesAFile) {
    const std::string path = directory / "disk";
    const auto opened = open_and_lock({.path = path, .create = true, .size = 1 << 20});
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_EQ(std::filesystem::file_size(path), 1U << 20);
    EXPECT_EQ(space_of(path), 0U);
    EXPECT_EQ(opened->window.length, 1U << 20);
}

TEST_F(OpenedTest, MakesAFileWithAWindow) {
    const auto opened = open_and_lock({.path = directory / "disk",
                                       .offset = 65536,
                                       .create = true,
                                       .size = 1 << 20,
                                       .preallocate = true});
    ASSERT_TRUE(opened);
    EXPECT_EQ(opened->window.length, (1U << 20) - 65536);
    const std::uint64_t space = space_of(directory / "disk");
    EXPECT_TRUE(space >= (1 << 20) - 65536 && space < 1 << 20) << space;
}

TEST_F(OpenedTest, PreallocatesTheWholeDisk) {
    for (const std::string& parent : {TestDirectory::storage(), std::string("/dev/shm")}) {
        const TestDirectory here(parent);
        const std::string path = here / "disk";
        ASSERT_TRUE(
            open_and_lock({.path = path, .create = true, .size = 1 << 20, .preallocate = true}));
        EXPECT_GE(space_of(path), 1U << 20) << parent;
        const std::string old = here.file("old", 1 << 20);
        ASSERT_TRUE(open_and_lock({.path = old, .preallocate = true}));
        EXPECT_GE(space_of(old), 1U << 20) << parent;
    }
}

TEST_F(OpenedTest, CreateNeverTouchesAFileThatExists) {
    const std::string path = directory.text("disk", std::string(512, 'x'));
    EXPECT_EQ(message_of({.path = path, .create = true, .size = 4096}),
              "open " + path +
                  ": there is such a file already, and create only makes new ones (EEXIST: File "
                  "exists); open it without create and size, or remove it");
    EXPECT_EQ(std::filesystem::file_size(path), 512U);
}

TEST_F(OpenedTest, AFailureLeavesNoFileBehind) {
    const std::string path = directory / "disk";
    expect_refused({.path = path, .create = true, .size = 1000}, EINVAL,
                   "size is 1000; it must be a multiple of the logical block size 512");
    expect_refused({.path = path, .offset = 1 << 20, .create = true, .size = 1 << 20}, EINVAL,
                   "it has 1048576 bytes, from offset 1048576 on less than one logical block of "
                   "512");
    EXPECT_TRUE(directory.empty());
}

TEST_F(OpenedTest, NoSpaceIsAnErrorAndLeavesNoFileBehind) {
    const TestDirectory memory(TestDirectory::kMemory);
    struct statvfs system{};
    ASSERT_EQ(statvfs(memory.path().c_str(), &system), 0);
    if (system.f_blocks == 0) GTEST_SKIP() << "this tmpfs has no limit";
    const std::uint64_t whole = system.f_blocks * system.f_frsize;
    const FileOptions options{
        .path = memory / "disk", .create = true, .size = 2 * whole, .preallocate = true};
    expect_refused(options, ENOSPC,
                   "space for " + std::to_string(2 * whole) + " bytes cannot be taken");
    EXPECT_TRUE(memory.empty());
}

TEST_F(OpenedTest, AWriterKeepsAllOthersOut) {
    const std::string path = directory.file("disk", 1 << 20);
    auto writer = open_and_lock({.path = path});
    ASSERT_TRUE(writer);
    expect_refused({.path = path}, EBUSY, "another disk or program has locked it");
    expect_refused({.path = path, .read_only = true}, EBUSY,
                   "another disk or program has locked it to write");
    writer = std::unexpected(Error{});
    EXPECT_TRUE(open_and_lock({.path = path})) << "the lock goes with the disk";
}

TEST_F(OpenedTest, ReadersShareAndKeepWritersOut) {
    const std::string path = directory.file("disk", 1 << 20);
    const auto one = open_and_lock({.path = path, .read_only = true});
    const auto two = open_and_lock({.path = path, .read_only = true});
    ASSERT_TRUE(one && two);
    EXPECT_EQ(message_of({.path = path}),
              "open " + path +
                  ": another disk or program has locked it (EBUSY: Device or resource busy); stop "
                  "that one first, or open both read-only");
}

TEST_F(OpenedTest, TheLockHoldsBetweenProcesses) {
    const std::string path = directory.file("disk", 1 << 20);
    int ready[2];
    int go_on[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(go_on, O_CLOEXEC), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    char byte = 0;
    if (child == 0) {
        const int fd = open(path.c_str(), O_RDWR);
        byte = static_cast<char>(flock(fd, LOCK_EX));
        static_cast<void>(!write(ready[1], &byte, 1));
        static_cast<void>(!read(go_on[0], &byte, 1));
        _exit(0);
    }
    const Fd ends[4] = {Fd(ready[0]), Fd(ready[1]), Fd(go_on[0]), Fd(go_on[1])};
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    ASSERT_EQ(byte, 0);
    expect_refused({.path = path}, EBUSY, "another disk or program has locked it");
    ASSERT_EQ(write(go_on[1], &byte, 1), 1);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(open_and_lock({.path = path}));
}

TEST_F(OpenedTest, AFileThatMayOnlyBeReadIsAReadOnlyDisk) {
    const std::string path = directory.file("disk", 1 << 20);
    EXPECT_TRUE(open_and_lock({.path = path, .read_only = true})->read_only);
    ASSERT_EQ(chmod(path.c_str(), 0444), 0);
    ASSERT_EQ(chmod(directory.path().c_str(), 0755), 0);
    const bool root = geteuid() == 0;  // may write every file
    constexpr uid_t kNobody = 65534;
    ASSERT_TRUE(!root || seteuid(kNobody) == 0);
    const auto opened = open_and_lock({.path = path});
    const auto refused = open_and_lock({.path = path, .preallocate = true});
    ASSERT_TRUE(!root || seteuid(0) == 0);
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_TRUE(opened->read_only);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().detail, "space cannot be taken (preallocate): it is read-only");
}

TEST_F(OpenedTest, DirectIoIsOnWhereItIsAskedFor) {
    if (!directory.has_direct_io()) GTEST_SKIP() << "no O_DIRECT in " << directory.path();
    const std::string path = directory.file("disk", 1 << 20);
    const auto opened = open_and_lock({.path = path, .direct = true});
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_TRUE(opened->underneath.direct);
    EXPECT_NE(fcntl(opened->fd.get(), F_GETFL) & O_DIRECT, 0);
    EXPECT_NE(fcntl(opened->fd.get(), F_GETFL) & O_NOATIME, 0);
    EXPECT_EQ(fcntl(opened->fd.get(), F_GETFL) & O_NONBLOCK, 0) << "real storage waits";
}

TEST_F(OpenedTest, TmpfsIsServedAtOnceAndStaysABufferedFile) {
    const TestDirectory memory(TestDirectory::kMemory);
    for (const bool direct : {false, true}) {
        const auto opened = open_and_lock({.path = memory.file("disk", 1 << 20), .direct = direct});
        ASSERT_TRUE(opened) << opened.error().message();
        EXPECT_NE(fcntl(opened->fd.get(), F_GETFL) & O_NONBLOCK, 0);
        EXPECT_FALSE(opened->underneath.direct);
        EXPECT_EQ(opened->logical_block, 512U);
    }
}

TEST_F(OpenedTest, FilesOnStorageAreLeftAsTheyAre) {
    if (lies_in_memory(open_and_lock({.path = directory.file("one", 4096)})->fd.get())) {
        GTEST_SKIP() << directory.path() << " is in memory";
    }
    const auto opened = open_and_lock({.path = directory.file("disk", 1 << 20)});
    ASSERT_TRUE(opened);
    EXPECT_EQ(fcntl(opened->fd.get(), F_GETFL) & (O_NONBLOCK | O_DIRECT), 0);
}

}  // namespace
}  // namespace ashlar::file
