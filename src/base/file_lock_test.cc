#include "base/file_lock.h"

#include <sys/mman.h>
#include <cerrno>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "base/fd.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

class FileLock : public testing::Test {
protected:
    Fd first{memfd_create("lock", MFD_CLOEXEC)};
    Fd second = open_again(first.get(), O_RDWR);
};

TEST_F(FileLock, KeepsASecondWriterOut) {
    EXPECT_EQ(lock_file(first.get()), 0);
    EXPECT_EQ(lock_file(second.get()), EBUSY);
    EXPECT_EQ(lock_file(second.get(), true), EBUSY);
    first.reset();
    EXPECT_EQ(lock_file(second.get()), 0);
}

TEST_F(FileLock, IsSharedByThoseWhoOnlyRead) {
    EXPECT_EQ(lock_file(first.get(), true), 0);
    EXPECT_EQ(lock_file(second.get(), true), 0);
    EXPECT_EQ(lock_file(second.get()), EBUSY);
}

TEST_F(FileLock, IsWaitedFor) {
    ASSERT_EQ(lock_file(first.get()), 0);
    EXPECT_EQ(lock_file(second.get(), false, 30ms), EBUSY);
    std::jthread letting_go([&] {
        std::this_thread::sleep_for(50ms);
        first.reset();
    });
    EXPECT_EQ(lock_file(second.get(), false, 60s), 0);
}

TEST(FileLockErrors, AreThoseOfTheSystem) { EXPECT_EQ(lock_file(-1), EBADF); }

}  // namespace
}  // namespace ashlar
