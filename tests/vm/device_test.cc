// The library on a real driver, as a program that writes storage uses it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include <ashlar/ashlar.h>

#include "block_io.h"

namespace ashlar {
namespace {

constexpr std::uint64_t kSize = 16 << 20;

// Bytes in memory that remembers what it was asked and fails where it is told to.
class Recorder {
public:
    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        if (const int error = read_error) return IoResult::from_errno(error);
        std::memcpy(into.data(), &bytes_[offset], into.size());
        return {};
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        if (const int error = write_error) return IoResult::from_errno(error);
        std::memcpy(&bytes_[offset], from.data(), from.size());
        ++writes;
        written_since_flush = true;
        return {};
    }
    IoResult flush() {
        if (const int error = flush_error) return IoResult::from_errno(error);
        ++flushes;
        written_since_flush = false;
        return {};
    }

    std::atomic<int> read_error = 0, write_error = 0, flush_error = 0;
    std::atomic<int> writes = 0, flushes = 0;
    std::atomic<bool> written_since_flush = false;

private:
    std::vector<std::byte> bytes_ = std::vector<std::byte>(kSize);
};

Device make(const std::shared_ptr<Recorder>& recorder, DeviceOptions options = {}) {
    auto device = Device::create(make_backend(recorder), std::move(options));
    EXPECT_TRUE(device) << device.error().message();
    return std::move(*device);
}

TEST(Device, LivesThroughItsStages) {
    auto recorder = std::make_shared<Recorder>();
    Device device = make(recorder);
    EXPECT_EQ(device.stage(), DeviceStage::created);
    EXPECT_FALSE(std::filesystem::exists(device.block_path()));
    for (int round = 0; round < 3; ++round) {
        const auto started = device.start();
        ASSERT_TRUE(started) << started.error().message();
        EXPECT_EQ(device.stage(), DeviceStage::serving);
        EXPECT_EQ(write_block(device.block_path(), static_cast<char>('a' + round)), 0);
        EXPECT_EQ(read_block(device.block_path(), static_cast<char>('a' + round)), 0);
        EXPECT_FALSE(device.start());  // it serves already
        const auto stopped = device.stop();
        ASSERT_TRUE(stopped) << stopped.error().message();
        EXPECT_EQ(device.stage(), DeviceStage::stopped);
        EXPECT_TRUE(device.wait());
        EXPECT_FALSE(std::filesystem::exists(device.block_path()));
    }
    ASSERT_TRUE(device.remove());
    EXPECT_EQ(device.stage(), DeviceStage::removed);
    EXPECT_FALSE(std::filesystem::exists(device.char_path()));
    EXPECT_FALSE(device.start());
    EXPECT_TRUE(device.remove());
}

TEST(Device, DestructionRemoves) {
    std::string path;
    {
        Device device = make(std::make_shared<Recorder>());
        path = device.char_path();
        ASSERT_TRUE(device.start());
        EXPECT_TRUE(std::filesystem::exists(path));
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Device, StartWaitsForTheLastHolderOfTheOldDisk) {
    Device device =
        make(std::make_shared<Recorder>(), {.timeout = std::chrono::milliseconds(3000)});
    ASSERT_TRUE(device.start());
    auto holder = std::make_unique<File>(device.block_path(), O_RDONLY);
    ASSERT_TRUE(device.stop());
    const auto refused = device.start();
    ASSERT_FALSE(refused);
    if (device.stage() == DeviceStage::removed) {
        // Before 6.16 a restart is a removal and an addition; the removal ends with the holder.
        EXPECT_EQ(refused.error().code, ETIMEDOUT);
        return;
    }
    EXPECT_EQ(refused.error().code, EEXIST);
    EXPECT_EQ(device.stage(), DeviceStage::stopped);
    holder.reset();
    const auto started = device.start();
    EXPECT_TRUE(started) << started.error().message();
}

TEST(Device, FlushReachesTheBackend) {
    auto recorder = std::make_shared<Recorder>();
    Device device = make(recorder);
    ASSERT_TRUE(device.start());
    const File file(device.block_path(), O_RDWR | O_DIRECT);
    Block block;
    for (int round = 0; round < 5; ++round) {
        ASSERT_EQ(pwrite(file.fd(), block.bytes.data(), kBlock, 0), ssize_t{kBlock});
        EXPECT_TRUE(recorder->written_since_flush);
        ASSERT_EQ(fdatasync(file.fd()), 0);
        EXPECT_FALSE(recorder->written_since_flush);
    }
    recorder->flush_error = EIO;
    ASSERT_EQ(pwrite(file.fd(), block.bytes.data(), kBlock, 0), ssize_t{kBlock});
    EXPECT_NE(fdatasync(file.fd()), 0);
    EXPECT_EQ(errno, EIO);
    recorder->flush_error = 0;
    EXPECT_EQ(device.metrics().total().errors(), 1U);
}

// O_DIRECT with O_DSYNC is one write with FUA; the engine adds the flush that the backend lacks.
TEST(Device, FuaIsDurableWhenItCompletes) {
    auto recorder = std::make_shared<Recorder>();
    Device device = make(recorder);
    ASSERT_TRUE(device.start());
    EXPECT_EQ(write_block(device.block_path(), 'f', O_DIRECT | O_DSYNC), 0);
    EXPECT_FALSE(recorder->written_since_flush);
    // More than the kernel asked for: the others are the engine's.
    EXPECT_GT(static_cast<std::uint64_t>(recorder->flushes),
              device.metrics().total()[Op::flush].count);
}

// What the kernel offers to users is not what the backend can.
TEST(Device, FuaIsDurableWithTheNextServerToo) {
    auto recorder = std::make_shared<Recorder>();
    Device device = make(recorder, {.recovery = Recovery::reissue});
    ASSERT_TRUE(device.start());
    ASSERT_TRUE(device.quiesce());
    device.detach();
    auto next = Device::recover(make_backend(recorder), device.info().id, {});
    ASSERT_TRUE(next) << next.error().message();
    ASSERT_TRUE(next->start());
    EXPECT_EQ(write_block(next->block_path(), 'f', O_DIRECT | O_DSYNC), 0);
    EXPECT_FALSE(recorder->written_since_flush);
}

// A store that does not shrink at first.
class Stubborn : public Recorder {
public:
    [[nodiscard]] std::uint64_t size() const { return size_; }
    Result<void> resize(std::uint64_t size) {
        if (refusals > 0 && size < size_) {
            --refusals;
            return std::unexpected(Error{.operation = "shrink", .code = EIO});
        }
        size_ = size;
        return {};
    }
    int refusals = 1;

private:
    std::atomic<std::uint64_t> size_ = kSize;
};

TEST(Device, AShrinkThatFailedIsDoneAgain) {
    auto store = std::make_shared<Stubborn>();
    auto device = Device::create(make_backend(store), {});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    const auto shrunk = device->resize(kSize / 2);
    ASSERT_FALSE(shrunk);
    if (shrunk.error().code == EOPNOTSUPP) GTEST_SKIP() << shrunk.error().message();
    EXPECT_EQ(shrunk.error().code, EIO);
    EXPECT_EQ(device->geometry().size, kSize / 2);
    EXPECT_EQ(store->size(), kSize);
    const auto again = device->resize(kSize / 2);
    EXPECT_TRUE(again) << again.error().message();
    EXPECT_EQ(store->size(), kSize / 2);
    EXPECT_TRUE(device->resize(kSize));
    EXPECT_EQ(store->size(), kSize);
}

TEST(Device, ErrnoReachesTheCaller) {
    auto recorder = std::make_shared<Recorder>();
    Device device = make(recorder);
    ASSERT_TRUE(device.start());
    for (const int error : {EIO, ENOSPC, ETIMEDOUT, ENOLINK, EOPNOTSUPP}) {
        recorder->write_error = error;
        EXPECT_EQ(write_block(device.block_path(), 'x'), error) << strerror(error);
    }
    recorder->write_error = 0;
    recorder->read_error = EIO;
    EXPECT_EQ(read_block(device.block_path(), 'x'), EIO);
    recorder->read_error = 0;
    EXPECT_EQ(write_block(device.block_path(), 'y'), 0);
    EXPECT_EQ(read_block(device.block_path(), 'y'), 0);
}

TEST(Device, ManyDevicesOnTwoThreads) {
    auto threads = QueueThreads::create({.count = 2, .entries = 512});
    ASSERT_TRUE(threads) << threads.error().message();
    std::vector<Device> devices;
    for (int index = 0; index < 12; ++index) {
        devices.push_back(
            make(std::make_shared<Recorder>(), {.queues = 2, .depth = 16, .threads = *threads}));
        const auto started = devices.back().start();
        ASSERT_TRUE(started) << started.error().message();
    }
    for (Device& device : devices) {
        EXPECT_EQ(write_block(device.block_path(), 'm'), 0);
    }
    // Some go while the others serve.
    for (std::size_t index = 0; index < devices.size(); index += 2) {
        const auto removed = devices[index].remove();
        EXPECT_TRUE(removed) << removed.error().message();
    }
    for (std::size_t index = 1; index < devices.size(); index += 2) {
        EXPECT_EQ(read_block(devices[index].block_path(), 'm'), 0);
    }
    devices.clear();
}

// A session whose answers come later, from a coroutine: the queue goes on meanwhile.
class Gate {
public:
    struct Awaiter {
        Gate& gate;
        static bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<> waiter) { gate.waiting_.push_back(waiter); }
        static void await_resume() noexcept {}
    };
    Awaiter wait() { return {*this}; }
    void open() {
        auto waiting = std::move(waiting_);
        waiting_.clear();
        for (auto waiter : waiting) waiter.resume();
    }
    [[nodiscard]] std::size_t count() const { return waiting_.size(); }

private:
    std::vector<std::coroutine_handle<>> waiting_;
};

class SlowSession final : public Session {
public:
    Task<> serve(Io& io, const Request& request) override {
        if (request.op == Op::write) return hold(io, request);
        std::memset(request.buffer.data(), 0, request.length);
        // Every read lets the writes go that came before it.
        gate_.open();
        return IoResult{};
    }

private:
    Task<> hold(Io&, const Request&) {
        co_await gate_.wait();
        co_return IoResult{};
    }
    Gate gate_;
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

TEST(Device, AsynchronousAnswersDoNotHoldTheQueue) {
    auto device = Device::create(std::make_shared<SlowBackend>(), {.depth = 8});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    std::atomic<int> done = 0;
    std::vector<std::thread> writers;
    for (int index = 0; index < 4; ++index) {
        writers.emplace_back([&] {
            EXPECT_EQ(write_block(device->block_path(), 's'), 0);
            ++done;
        });
    }
    while (done < 4) {
        EXPECT_EQ(read_block(device->block_path(), '\0'), 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    for (auto& writer : writers) writer.join();
}

// Never answers a write.
class DeafSession final : public Session {
public:
    Task<> serve(Io& io, const Request& request) override {
        if (request.op == Op::write) return never(io, request);
        std::memset(request.buffer.data(), 0, request.length);
        return IoResult{};
    }

private:
    static Task<> never(Io&, const Request&) {
        co_await std::suspend_always{};
        co_return IoResult{};
    }
};

class DeafBackend final : public Backend {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "deaf"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<DeafSession>();
    }
};

// A request that is never answered must not make the device, the process or the driver hang.
void abandon_a_deaf_device(DeviceOptions options) {
    options.timeout = std::chrono::milliseconds(700);
    auto device = Device::create(std::make_shared<DeafBackend>(), options);
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    std::thread writer([path = device->block_path()] { EXPECT_EQ(write_block(path, 'd'), EIO); });
    while (device->metrics().total()[Op::read].count == 0 ||
           read_block(device->block_path(), '\0') != 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const auto removed = device->remove();
    ASSERT_FALSE(removed);
    EXPECT_EQ(removed.error().code, ETIMEDOUT);
    EXPECT_EQ(device->stage(), DeviceStage::removed) << removed.error().message();
    writer.join();
    EXPECT_FALSE(std::filesystem::exists(device->char_path()));
    auto control = Control::open();
    ASSERT_TRUE(control);
    EXPECT_TRUE(control->list());
}

TEST(Device, ARequestThatIsNeverAnsweredIsAbandoned) { abandon_a_deaf_device({}); }

TEST(Device, ARequestThatIsNeverAnsweredIsAbandonedOnSharedThreads) {
    auto threads = QueueThreads::create({.count = 1});
    ASSERT_TRUE(threads) << threads.error().message();
    abandon_a_deaf_device({.threads = *threads});
}

TEST(Device, ARemovalTakesNoNewerDeviceWithTheSameId) {
    Device old = make(std::make_shared<Recorder>());
    ASSERT_TRUE(old.start());
    auto control = Control::open();
    ASSERT_TRUE(control);
    std::thread remover([&, id = old.info().id] { EXPECT_TRUE(control->remove(id)); });
    EXPECT_TRUE(old.wait());
    remover.join();
    Device newer = make(std::make_shared<Recorder>(), {.id = old.info().id});
    ASSERT_TRUE(newer.start());
    EXPECT_TRUE(old.remove());
    EXPECT_TRUE(std::filesystem::exists(newer.block_path()));
    EXPECT_EQ(write_block(newer.block_path(), 'n'), 0);
}

class NoSession final : public Backend {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "none"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        // The first queue gets one, the second does not.
        if (count_++ % 2 == 0) return std::make_unique<SlowSession>();
        return std::unexpected(Error{.operation = "open the store", .code = ENOMEDIUM});
    }

private:
    std::atomic<int> count_ = 0;
};

TEST(Device, AQueueThatDoesNotOpenFailsTheStartAndLeavesNothing) {
    if (std::thread::hardware_concurrency() < 2) GTEST_FAIL() << "needs two CPUs";
    auto device = Device::create(std::make_shared<NoSession>(), {.queues = 2, .depth = 8});
    ASSERT_TRUE(device) << device.error().message();
    const auto started = device->start();
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, ENOMEDIUM);
    EXPECT_EQ(device->stage(), DeviceStage::created);
    EXPECT_FALSE(std::filesystem::exists(device->block_path()));
    EXPECT_TRUE(device->remove());
    EXPECT_FALSE(std::filesystem::exists(device->char_path()));
}

TEST(Device, StoppedFromOutside) {
    Device device = make(std::make_shared<Recorder>());
    ASSERT_TRUE(device.start());
    std::thread outside([id = device.info().id] {
        auto control = Control::open();
        ASSERT_TRUE(control);
        EXPECT_TRUE(control->stop(id));
    });
    EXPECT_TRUE(device.wait());
    EXPECT_EQ(device.stage(), DeviceStage::stopped);
    outside.join();
}

TEST(Control, AsynchronousRemoval) {
    auto control = Control::open();
    ASSERT_TRUE(control) << control.error().message();
    auto info = control->add({.queues = 1, .depth = 4});
    ASSERT_TRUE(info) << info.error().message();
    ASSERT_TRUE(control->remove_async(info->id));
    for (int tries = 0; tries < 1000 && control->info(info->id); ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_FALSE(control->info(info->id));
}

TEST(Control, AnswersOfTheKernelAreHonoured) {
    auto control = Control::open();
    ASSERT_TRUE(control) << control.error().message();
    auto info = control->add({.queues = 4096, .depth = 3, .io_max = 5 * 4096});
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_LE(info->queues, 64);  // at most one per CPU
    EXPECT_EQ(info->depth, 3);
    auto affinity = control->queue_affinity(info->id, 0);
    ASSERT_TRUE(affinity) << affinity.error().message();
    EXPECT_FALSE(affinity->empty());
    EXPECT_FALSE(control->queue_affinity(info->id, info->queues));
    auto started = control->start(info->id, getpid());
    ASSERT_FALSE(started);
    EXPECT_TRUE(control->remove(info->id));
    const auto gone = control->info(info->id);
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ENODEV);
}

// Nobody fetches: START_DEV waits, and the bound ends it.
TEST(Control, EveryCallIsBounded) {
    auto control = Control::open({.timeout = std::chrono::milliseconds(300)});
    ASSERT_TRUE(control) << control.error().message();
    auto info = control->add({});
    ASSERT_TRUE(info) << info.error().message();
    ASSERT_TRUE(control->set_params(info->id, {.size = kSize}, {}, info->io_max));
    const auto started = control->start(info->id, getpid());
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, ETIMEDOUT);
    // The ring was replaced; the next calls work.
    EXPECT_TRUE(control->info(info->id));
    EXPECT_TRUE(control->remove(info->id));
}

TEST(Control, ParametersComeBack) {
    auto control = Control::open();
    ASSERT_TRUE(control) << control.error().message();
    auto info = control->add({});
    ASSERT_TRUE(info) << info.error().message();
    const Geometry geometry{.size = kSize,
                            .logical_block_size = 4096,
                            .physical_block_size = 8192,
                            .io_opt = 65536,
                            .rotational = true,
                            .dma_alignment = 512,
                            .segment_max = 65536,
                            .segments_max = 32,
                            .segment_boundary = 1 << 20};
    const Capabilities capabilities{.flush = true, .discard = true, .write_zeroes = true};
    ASSERT_TRUE(control->set_params(info->id, geometry, capabilities, info->io_max));
    const auto params = control->params(info->id);
    ASSERT_TRUE(params) << params.error().message();
    EXPECT_EQ(params->geometry.size, geometry.size);
    EXPECT_EQ(params->geometry.logical_block_size, geometry.logical_block_size);
    EXPECT_EQ(params->geometry.physical_block_size, geometry.physical_block_size);
    EXPECT_EQ(params->geometry.io_opt, geometry.io_opt);
    EXPECT_TRUE(params->geometry.rotational);
    // Drivers before 6.15 know of no such limits.
    if (params->geometry.dma_alignment != 0) {
        EXPECT_EQ(params->geometry.dma_alignment, geometry.dma_alignment);
        EXPECT_EQ(params->geometry.segment_max, geometry.segment_max);
        EXPECT_EQ(params->geometry.segments_max, geometry.segments_max);
        EXPECT_EQ(params->geometry.segment_boundary, geometry.segment_boundary);
    }
    EXPECT_TRUE(params->capabilities.flush);
    EXPECT_TRUE(params->capabilities.discard);
    EXPECT_TRUE(control->remove(info->id));
}

}  // namespace
}  // namespace ashlar
