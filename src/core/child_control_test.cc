#include "core/child_control.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <cerrno>
#include <filesystem>

namespace ashlar {
namespace {

using std::chrono::milliseconds;

// Without a driver the child fails where this process would; what it met comes back.
TEST(ChildControl, TellsWhatTheChildMet) {
    if (std::filesystem::exists("/dev/ublk-control")) {
        const auto stopped = stop_from_child(1'048'575, milliseconds(1000));
        ASSERT_FALSE(stopped);
        EXPECT_TRUE(stopped.error().code == ENODEV || stopped.error().code == EACCES);
        return;
    }
    const auto started = start_from_child(7, 1, milliseconds(1000));
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, ENOENT);
    EXPECT_EQ(started.error().device, 7U);
    EXPECT_EQ(started.error().operation, "START_DEV");
}

TEST(ChildControl, LeavesNoChildAndNoDescriptor) {
    const auto descriptors = [] {
        std::size_t count = 0;
        for ([[maybe_unused]] const auto& entry :
             std::filesystem::directory_iterator("/proc/self/fd")) {
            ++count;
        }
        return count;
    };
    const std::size_t before = descriptors();
    for (int round = 0; round < 5; ++round) {
        EXPECT_FALSE(stop_from_child(1'048'575, milliseconds(1000)));
    }
    EXPECT_EQ(descriptors(), before);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace ashlar
