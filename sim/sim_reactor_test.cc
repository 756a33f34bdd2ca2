#include "sim/sim_reactor.h"

#include <gtest/gtest.h>
#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "sim/test_ring.h"

namespace ashlar::sim {
namespace {

using Kind = Submission::Kind;

class ReactorTest : public testing::Test {
protected:
    void make(const FileFaults& faults = {}, unsigned entries = 8) {
        reactor = std::make_unique<SimReactor>(
            kernel, 0, ReactorOptions{.entries = entries, .files = 2, .buffers = 4}, faults,
            std::function<void()>());
        fd = kernel.files.add(16384, 512);
    }
    // Until nothing happens any more.
    void run() {
        while (reactor->run_once({}) == 0 || kernel.timeline.run_next()) {
        }
    }
    Submission access(Kind kind, std::span<std::byte> bytes) const {
        return {.kind = kind,
                .fd = fd,
                .buffer = Buffer::memory(bytes.data(), static_cast<std::uint32_t>(bytes.size()))};
    }

    SimKernel kernel{1};
    std::unique_ptr<SimReactor> reactor;
    int fd = -1;
    Noted done;
    std::array<std::byte, 1024> data{};
};

TEST_F(ReactorTest, WritesAndReads) {
    make();
    data.fill(std::byte{'a'});
    const Submission write = access(Kind::write, data);
    reactor->submit(write, done);
    run();
    std::array<std::byte, 1024> back{};
    const Submission read = access(Kind::read, back);
    reactor->submit(read, done);
    run();
    EXPECT_EQ(done.results, (std::vector<std::int32_t>{1024, 1024}));
    EXPECT_EQ(back, data);
}

TEST_F(ReactorTest, SleepsByTheVirtualClock) {
    make();
    const Submission sleep{.kind = Kind::sleep, .time = {.seconds = 3600}};
    reactor->submit(sleep, done);
    run();
    EXPECT_EQ(done.results, std::vector{-ETIME});
    EXPECT_GE(kernel.timeline.now(), 3600'000'000'000U);
}

TEST_F(ReactorTest, ACancelledSleepEnds) {
    make();
    const Submission sleep{.kind = Kind::sleep, .time = {.seconds = 3600}};
    reactor->submit(sleep, done);
    reactor->cancel(done);
    static_cast<void>(reactor->run_once({}));
    static_cast<void>(reactor->run_once({}));
    EXPECT_EQ(done.results, std::vector{-ECANCELED});
}

TEST_F(ReactorTest, ABoundEndsWhatIsStuck) {
    make({.stuck = 1000});
    Submission read = access(Kind::read, data);
    read.time = {.nanoseconds = 1000};
    reactor->submit(read, done);
    run();
    EXPECT_EQ(done.results, std::vector{-ECANCELED});
}

TEST_F(ReactorTest, ShortTransfersAreWholeBlocks) {
    make({.shorts = 1000});
    const Submission write = access(Kind::write, data);
    reactor->submit(write, done);
    run();
    EXPECT_EQ(done.results, std::vector{512});
}

TEST_F(ReactorTest, PushesEarlyWhenTheQueueIsFull) {
    make({}, 1);
    std::array<Noted, 3> many;
    const Submission read = access(Kind::read, data);
    for (Noted& one : many) reactor->submit(read, one);
    run();
    for (const Noted& one : many) EXPECT_EQ(one.results, std::vector{1024});
}

TEST_F(ReactorTest, FindsTheUseOfABufferThatIsNotRegistered) {
    make();
    const Submission read{.kind = Kind::read, .fd = fd, .buffer = Buffer::registered(1, 0, 512)};
    reactor->submit(read, done);
    run();
    EXPECT_EQ(done.results, std::vector{-EFAULT});
    EXPECT_TRUE(kernel.journal.failed());
}

TEST_F(ReactorTest, FindsABufferOfAGroupThatComesBackTwice) {
    make();
    const auto group = reactor->open_buffer_group(data, 4);
    ASSERT_TRUE(group);
    const auto picked = reactor->pick_buffer(*group);
    ASSERT_TRUE(picked);
    EXPECT_EQ(picked->bytes.size(), 256U);
    reactor->recycle_buffer(*group, picked->buffer);
    EXPECT_FALSE(kernel.journal.failed());
    reactor->recycle_buffer(*group, picked->buffer);
    EXPECT_TRUE(kernel.journal.failed());
}

TEST_F(ReactorTest, SaysWhatWasNotGivenBack) {
    make();
    EXPECT_EQ(reactor->leaks(), "");
    ASSERT_TRUE(reactor->register_file(77));
    ASSERT_TRUE(reactor->reserve_buffers(2));
    EXPECT_EQ(reactor->leaks(), " a file reserved buffers");
}

TEST(SimFiles, APowerCutKeepsOrLosesWholeBlocks) {
    Random random(5);
    SimFiles files;
    const int fd = files.add(64 * 512, 512);
    std::vector<std::byte> content(64 * 512, std::byte{'n'});
    EXPECT_EQ(files.write(fd, std::span(content).first(512), 0, true), 512);
    EXPECT_EQ(files.write(fd, std::span(content).subspan(512), 512, false), 63 * 512);
    files.cut_power(random);
    EXPECT_EQ(files.read(fd, content, 0), 64 * 512);
    int kept = 0;
    for (std::size_t block = 0; block < 64; ++block) {
        for (std::size_t i = 1; i < 512; ++i) {
            ASSERT_EQ(content[block * 512 + i], content[block * 512]);
        }
        kept += content[block * 512] == std::byte{'n'} ? 1 : 0;
    }
    EXPECT_EQ(content[0], std::byte{'n'}) << "it was durable";
    EXPECT_GT(kept, 10);
    EXPECT_LT(kept, 55);
}

}  // namespace
}  // namespace ashlar::sim
