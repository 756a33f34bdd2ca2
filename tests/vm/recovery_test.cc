// Recovery and quiesce of the library on a real driver.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <ashlar/ashlar.h>

#include "block_io.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSize = 16 << 20;

std::uint64_t offered() {
    auto control = Control::open();
    EXPECT_TRUE(control);
    return control->features().value_or(0);
}
constexpr std::uint64_t kQuiesce = 1U << 12;
constexpr std::uint64_t kFailIo = 1U << 9;
constexpr std::uint64_t kSafeStop = 1U << 17;

std::shared_ptr<Backend> memory(std::uint64_t size = kSize) {
    return open_memory({.geometry = {.size = size}}).value();
}

// Writes and reads back on one place of the disk, until it is told to stop.
class Writer {
public:
    Writer(const std::string& path, std::uint64_t place)
        : thread_([this, path, place] { run(path, place); }) {}
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() { end(); }
    void end() {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
    }
    std::atomic<int> error = 0;
    std::atomic<std::uint64_t> rounds = 0;

private:
    void run(const std::string& path, std::uint64_t place) {
        const File file(path, O_RDWR | O_DIRECT);
        Block block;
        const auto at = static_cast<off_t>(place * kBlock);
        for (unsigned round = 1; !stop_ && error == 0; ++round) {
            block.bytes.fill(static_cast<char>(round));
            if (pwrite(file.fd(), block.bytes.data(), kBlock, at) != kBlock) error = errno;
            block.bytes.fill(0);
            if (error == 0 && pread(file.fd(), block.bytes.data(), kBlock, at) != kBlock) {
                error = errno;
            }
            for (const char c : block.bytes) {
                if (error == 0 && c != static_cast<char>(round)) error = EUCLEAN;
            }
            ++rounds;
        }
    }
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

void await_progress(const std::vector<std::unique_ptr<Writer>>& writers) {
    for (const auto& writer : writers) {
        const std::uint64_t before = writer->rounds;
        for (int i = 0; i < 5000 && writer->rounds < before + 3 && writer->error == 0; ++i) {
            std::this_thread::sleep_for(1ms);
        }
        EXPECT_GE(writer->rounds, before + 3);
    }
}

struct Way {
    const char* name;
    Recovery recovery;
    DataPath path;
    CommandStyle commands;
};
class QuiesceTest : public testing::TestWithParam<Way> {};

// Ten servers in a row under load: no error, nothing lost.
TEST_P(QuiesceTest, LosesNothing) {
    const Way& way = GetParam();
    auto backend = memory();
    const DeviceOptions options{.queues = 2,
                                .depth = 8,
                                .data_path = way.path,
                                .commands = way.commands,
                                .recovery = way.recovery};
    auto made = Device::create(backend, options);
    if (!made && made.error().code == EOPNOTSUPP) GTEST_SKIP() << made.error().message();
    ASSERT_TRUE(made) << made.error().message();
    auto device = std::make_unique<Device>(std::move(*made));
    ASSERT_TRUE(device->start());
    const DeviceId id = device->info().id;
    if (way.recovery == Recovery::queue &&
        ((offered() & kQuiesce) == 0 || way.commands == CommandStyle::batch)) {
        const auto refused = device->quiesce();
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, EOPNOTSUPP);
        EXPECT_EQ(device->stage(), DeviceStage::serving);
        EXPECT_EQ(write_block(device->block_path(), 'x'), 0) << "it serves as before";
        return;
    }
    std::vector<std::unique_ptr<Writer>> writers;
    for (std::uint64_t i = 0; i < 6; ++i) {
        writers.push_back(std::make_unique<Writer>(device->block_path(), i));
    }
    for (int round = 0; round < 10; ++round) {
        await_progress(writers);
        const auto quiesced = device->quiesce();
        ASSERT_TRUE(quiesced) << quiesced.error().message();
        EXPECT_EQ(device->stage(), DeviceStage::quiesced);
        EXPECT_TRUE(device->wait());
        if (round % 2 == 0) {
            const auto again = device->start();
            ASSERT_TRUE(again) << again.error().message();
            continue;
        }
        device->detach();
        auto next = Device::recover(backend, id, {});
        ASSERT_TRUE(next) << next.error().message();
        EXPECT_EQ(next->stage(), DeviceStage::quiesced);
        device = std::make_unique<Device>(std::move(*next));
        const auto started = device->start();
        ASSERT_TRUE(started) << started.error().message();
    }
    await_progress(writers);
    for (const auto& writer : writers) {
        writer->end();
        EXPECT_EQ(writer->error, 0) << std::strerror(writer->error);
    }
    EXPECT_EQ(device->choices().data_path, way.path);
    EXPECT_EQ(device->choices().commands, way.commands);
    EXPECT_TRUE(device->remove());
}

INSTANTIATE_TEST_SUITE_P(
    Ways, QuiesceTest,
    testing::Values(
        Way{"reissue_copy", Recovery::reissue, DataPath::copy, CommandStyle::per_io},
        Way{"reissue_get_data", Recovery::reissue, DataPath::get_data, CommandStyle::per_io},
        Way{"reissue_user_copy", Recovery::reissue, DataPath::user_copy, CommandStyle::per_io},
        Way{"reissue_batch", Recovery::reissue, DataPath::copy, CommandStyle::batch},
        Way{"queue_copy", Recovery::queue, DataPath::copy, CommandStyle::per_io},
        Way{"queue_get_data", Recovery::queue, DataPath::get_data, CommandStyle::per_io},
        Way{"queue_user_copy", Recovery::queue, DataPath::user_copy, CommandStyle::per_io},
        Way{"queue_batch", Recovery::queue, DataPath::copy, CommandStyle::batch}),
    [](const auto& way) { return way.param.name; });

// A session whose writes wait long, as a slow store's.
class SlowSession final : public Session {
public:
    Task<> serve(Io& io, const Request& request) override {
        if (request.op != Op::write) return IoResult::bytes(request.length);
        return slowly(io, request.length);
    }

private:
    static Task<> slowly(Io& io, std::uint64_t length) {
        const IoResult slept = co_await io.sleep(std::chrono::hours(1));
        if (!slept.ok()) co_return slept;
        co_return IoResult::bytes(length);
    }
};
class SlowBackend final : public Backend {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "slow"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<SlowSession>();
    }
};

TEST(Recovery, WhatTheBackendDoesNotAnswerIsTheNextServers) {
    auto device = Device::create(std::make_shared<SlowBackend>(),
                                 {.recovery = Recovery::reissue, .timeout = 500ms});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    std::atomic<int> written = -1;
    std::thread writer([&] { written = write_block(device->block_path(), 'w'); });
    std::this_thread::sleep_for(200ms);
    const auto quiesced = device->quiesce();
    EXPECT_TRUE(quiesced) << quiesced.error().message();
    device->detach();
    auto next = Device::recover(memory(), device->info().id, {});
    ASSERT_TRUE(next) << next.error().message();
    ASSERT_TRUE(next->start());
    writer.join();
    EXPECT_EQ(written, 0);
    EXPECT_EQ(read_block(next->block_path(), 'w'), 0);
}

TEST(Recovery, AnotherBackendIsRefusedAndTheDeviceStays) {
    auto device = Device::create(memory(), {.recovery = Recovery::reissue});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    const DeviceId id = device->info().id;
    auto taken = Device::recover(memory(), id, {});
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code, EBUSY);
    ASSERT_TRUE(device->quiesce());
    auto other = Device::recover(memory(kSize * 2), id, {});
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code, EINVAL);
    EXPECT_NE(other.error().message().find("size"), std::string::npos);
    auto less = Device::recover(
        open_null({.geometry = {.size = kSize, .logical_block_size = 4096}}).value(), id, {});
    ASSERT_FALSE(less);
    EXPECT_EQ(less.error().code, EINVAL);
    ASSERT_TRUE(device->start()) << "still there";
    EXPECT_EQ(write_block(device->block_path(), 'y'), 0);
}

TEST(Recovery, AStoppedDeviceIsTakenOverToo) {
    auto backend = memory();
    auto device = Device::create(backend, {});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    const DeviceId id = device->info().id;
    auto live = Device::recover(backend, id, {});
    ASSERT_FALSE(live);
    EXPECT_EQ(live.error().code, EBUSY);
    EXPECT_EQ(write_block(device->block_path(), 's', O_DIRECT), 0);
    ASSERT_TRUE(device->stop());
    device->detach();
    EXPECT_EQ(device->stage(), DeviceStage::removed);
    auto next = Device::recover(backend, id, {});
    ASSERT_TRUE(next) << next.error().message();
    EXPECT_EQ(next->stage(), DeviceStage::stopped);
    const auto started = next->start();
    ASSERT_TRUE(started) << started.error().message();
    EXPECT_EQ(next->info().id, id);
    EXPECT_EQ(read_block(next->block_path(), 's'), 0);
}

TEST(Recovery, AQuiescedDeviceCanBeStoppedAndRemoved) {
    for (const bool stop : {true, false}) {
        auto device = Device::create(memory(), {.recovery = Recovery::reissue});
        ASSERT_TRUE(device) << device.error().message();
        ASSERT_TRUE(device->start());
        ASSERT_TRUE(device->quiesce());
        if (stop) {
            const auto stopped = device->stop();
            EXPECT_TRUE(stopped) << stopped.error().message();
            EXPECT_EQ(device->stage(), DeviceStage::stopped);
        }
        EXPECT_TRUE(device->remove());
        EXPECT_FALSE(std::filesystem::exists(device->char_path()));
    }
}

TEST(Recovery, QuiesceSaysWhyNot) {
    auto device = Device::create(memory(), {});
    ASSERT_TRUE(device);
    ASSERT_TRUE(device->start());
    auto refused = device->quiesce();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EOPNOTSUPP);
    EXPECT_EQ(device->stage(), DeviceStage::serving);
    auto failing = Device::create(memory(), {.recovery = Recovery::fail});
    if ((offered() & kFailIo) == 0) {
        ASSERT_FALSE(failing);
        EXPECT_NE(failing.error().message().find("6.13"), std::string::npos)
            << failing.error().message();
    } else {
        ASSERT_TRUE(failing) << failing.error().message();
        ASSERT_TRUE(failing->start());
        EXPECT_FALSE(failing->quiesce());
    }
}

TEST(Recovery, StopsOnlyIfUnused) {
    auto device = Device::create(memory(), {});
    ASSERT_TRUE(device);
    ASSERT_TRUE(device->start());
    auto holder = std::make_unique<File>(device->block_path(), O_RDONLY);
    const auto refused = device->stop_if_unused();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, (offered() & kSafeStop) != 0 ? EBUSY : EOPNOTSUPP);
    EXPECT_EQ(device->stage(), DeviceStage::serving);
    EXPECT_EQ(write_block(device->block_path(), 'u'), 0);
    holder.reset();
    if ((offered() & kSafeStop) == 0) return;
    std::this_thread::sleep_for(100ms);
    const auto stopped = device->stop_if_unused();
    EXPECT_TRUE(stopped) << stopped.error().message();
    EXPECT_EQ(device->stage(), DeviceStage::stopped);
}

}  // namespace
}  // namespace ashlar
