#include "core/io_scheduler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>

#include <gtest/gtest.h>

#include "base/fd.h"

namespace ashlar {
namespace {

// A pipe with a name, in place of the kernel's file.
class IoScheduler : public testing::Test {
protected:
    void SetUp() override {
        std::string folder = testing::TempDir() + "io_scheduler_XXXXXX";
        ASSERT_NE(mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        file_ = folder_ + "/scheduler";
        ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
    }

    void TearDown() override {
        unlink(file_.c_str());
        rmdir(folder_.c_str());
    }

    // What was written until the writer ended.
    [[nodiscard]] std::string written() const {
        const Fd reader{open(file_.c_str(), O_RDONLY | O_CLOEXEC)};
        std::string all;
        char byte = 0;
        while (read(reader.get(), &byte, 1) == 1) all += byte;
        return all;
    }

    std::string folder_;
    std::string file_;
};

TEST_F(IoScheduler, TheFileIsTheDevicesOwn) {
    EXPECT_EQ(io_scheduler_file(0), "/sys/block/ublkb0/queue/scheduler");
    EXPECT_EQ(io_scheduler_file(4'294'967'295), "/sys/block/ublkb4294967295/queue/scheduler");
}

// The pipe is read only after the call: whoever waited for the kernel there would hang.
TEST_F(IoScheduler, NobodyWaitsForItToBeLeftOut) {
    leave_out_io_scheduler(file_);
    EXPECT_EQ(written(), "none");
}

TEST_F(IoScheduler, NoProcessIsLeftToReap) {
    leave_out_io_scheduler(file_);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
    EXPECT_EQ(written(), "none");
}

// Else a disk whose server is killed stays open as long as the kernel takes.
TEST_F(IoScheduler, WhoeverWritesHoldsNothingOfTheServer) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const Fd reader{ends[0]};
    {
        const Fd writer{ends[1]};
        leave_out_io_scheduler(file_);
    }
    pollfd closed{.fd = reader.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&closed, 1, 10'000), 1);
    EXPECT_TRUE((closed.revents & POLLHUP) != 0);
    EXPECT_EQ(written(), "none");
}

TEST_F(IoScheduler, AFileThatIsNotThereIsNoError) {
    leave_out_io_scheduler(folder_ + "/missing");
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
}

}  // namespace
}  // namespace ashlar
