#include "core/shared_memory.h"

#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

class SharedMemoryTest : public testing::Test {
protected:
    std::string file(off_t size) {
        files.emplace_back(memfd_create("shared", MFD_CLOEXEC));
        EXPECT_EQ(ftruncate(files.back().get(), size), 0);
        return "/proc/self/fd/" + std::to_string(files.back().get());
    }
    std::vector<Fd> files;
};

TEST_F(SharedMemoryTest, MapsEachFileInOrder) {
    const std::vector<std::string> paths{file(4096), file(65536)};
    const auto memory = SharedMemory::open(paths);
    ASSERT_TRUE(memory) << memory.error().message();
    ASSERT_EQ((*memory)->buffers().size(), 2U);
    EXPECT_EQ((*memory)->buffers()[0].size(), 4096U);
    (*memory)->buffers()[1][65535] = std::byte{42};
    char last = 0;
    ASSERT_EQ(pread(files[1].get(), &last, 1, 65535), 1);
    EXPECT_EQ(last, 42) << "it is the file's memory";
}

TEST_F(SharedMemoryTest, NoneIsNone) {
    const auto memory = SharedMemory::open({});
    ASSERT_TRUE(memory);
    EXPECT_EQ(*memory, nullptr);
}

TEST_F(SharedMemoryTest, RefusesWhatTheDriverWouldNotTake) {
    for (const std::string& path : {file(0), file(5000), std::string("/dev/zero")}) {
        const std::vector<std::string> paths{path};
        const auto memory = SharedMemory::open(paths);
        ASSERT_FALSE(memory) << path;
        EXPECT_EQ(memory.error().code, EINVAL);
    }
    const std::vector<std::string> missing{"/nowhere/memory"};
    EXPECT_EQ(SharedMemory::open(missing).error().code, ENOENT);
}

}  // namespace
}  // namespace ashlar
