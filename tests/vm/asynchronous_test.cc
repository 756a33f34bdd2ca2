// Sessions that await, on a real driver: cancellation, other threads, and what the kernel's buffer
// registration does when it fails.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include <ashlar/ashlar.h>

#include "block_io.h"
#include "core/queue_threads.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;
constexpr std::uint64_t kSize = 16 << 20;

// A backend of one function, called for each write; reads give zeroes.
class Writes final : public Backend {
public:
    using Serve = std::function<Task<>(Io&, const Request&)>;
    explicit Writes(Serve serve, DataAccess access = DataAccess::sees)
        : serve_(std::move(serve)), access_(access) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "writes"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return access_; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        class All final : public Session {
        public:
            explicit All(const Serve& serve) : serve_(serve) {}
            Task<> serve(Io& io, const Request& request) override {
                if (request.op == Op::write) return serve_(io, request);
                std::ranges::fill(request.bytes(), std::byte{0});
                return IoResult{};
            }

        private:
            const Serve& serve_;
        };
        return std::make_unique<All>(serve_);
    }

private:
    Serve serve_;
    DataAccess access_;
};

Task<> sleep_an_hour(Io& io, const Request&) { co_return co_await io.sleep(std::chrono::hours(1)); }

void await_writes(const Device& device, std::atomic<int>& begun, int count) {
    while (begun < count) std::this_thread::sleep_for(milliseconds(5));
    ASSERT_EQ(device.stage(), DeviceStage::serving);
}

TEST(Asynchronous, WhatRequestsAwaitIsCancelledWhenTheTimeOfAStopIsOver) {
    std::atomic<int> begun = 0;
    const auto serve = [&](Io& io, const Request& request) {
        ++begun;
        return sleep_an_hour(io, request);
    };
    auto device = Device::create(std::make_shared<Writes>(serve), {.timeout = milliseconds(700)});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    // The block layer has no word for ECANCELED.
    std::thread writer([path = device->block_path()] { EXPECT_EQ(write_block(path, 'w'), EIO); });
    await_writes(*device, begun, 1);
    const auto stopped = device->stop();
    EXPECT_TRUE(stopped) << stopped.error().message();
    EXPECT_EQ(device->stage(), DeviceStage::stopped);
    writer.join();
    // Nothing is left of it: the device serves again.
    const auto again = device->start();
    EXPECT_TRUE(again) << again.error().message();
    EXPECT_EQ(read_block(device->block_path(), '\0'), 0);
}

TEST(Asynchronous, CancellationSparesOtherDevicesOfTheThread) {
    auto threads = QueueThreads::create({.count = 1});
    ASSERT_TRUE(threads) << threads.error().message();
    std::atomic<int> begun = 0;
    const auto for_ever = [&](Io& io, const Request& request) {
        ++begun;
        return sleep_an_hour(io, request);
    };
    const auto a_second = [&](Io& io, const Request&) -> Task<> {
        ++begun;
        co_return co_await io.sleep(std::chrono::seconds(2));
    };
    auto stuck = Device::create(std::make_shared<Writes>(for_ever),
                                {.threads = *threads, .timeout = milliseconds(300)});
    auto slow = Device::create(std::make_shared<Writes>(a_second), {.threads = *threads});
    ASSERT_TRUE(stuck && slow);
    ASSERT_TRUE(stuck->start() && slow->start());
    std::thread one([path = stuck->block_path()] { EXPECT_NE(write_block(path, 'w'), 0); });
    std::thread two([path = slow->block_path()] { EXPECT_EQ(write_block(path, 'w'), 0); });
    await_writes(*slow, begun, 2);
    EXPECT_TRUE(stuck->remove());
    one.join();
    two.join();
    EXPECT_EQ(slow->stage(), DeviceStage::serving);
}

TEST(Asynchronous, OtherThreadsAnswer) {
    std::atomic<int> offloaded = 0;
    const auto serve = [&](Io& io, const Request& request) -> Task<> {
        const auto queue_thread = std::this_thread::get_id();
        const auto call = [&offloaded, queue_thread]() noexcept {
            if (std::this_thread::get_id() != queue_thread) ++offloaded;
            return IoResult{};
        };
        const IoResult first = co_await io.offload(call);
        Completion done(io);
        std::thread([&done, length = request.length] {
            done.complete(IoResult::bytes(length));
        }).detach();
        const IoResult second = co_await done;
        co_return first.ok() ? second : first;
    };
    auto device = Device::create(std::make_shared<Writes>(serve));
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    std::vector<std::thread> writers;
    for (int i = 0; i < 8; ++i) {
        writers.emplace_back([path = device->block_path()] {
            for (int round = 0; round < 20; ++round) EXPECT_EQ(write_block(path, 'o'), 0);
        });
    }
    for (auto& writer : writers) writer.join();
    EXPECT_EQ(offloaded, 160);
}

TEST(Asynchronous, ASmallSubmissionQueueLosesNothing) {
    auto threads = QueueThreads::create({.count = 1, .entries = 1});
    ASSERT_TRUE(threads) << threads.error().message();
    const auto serve = [](Io& io, const Request&) -> Task<> {
        const auto half = [](Io& on) -> Task<> { co_return co_await on.sleep(milliseconds(1)); };
        Task<> one = half(io);
        Task<> two = half(io);
        const IoResult first = co_await one;
        const IoResult second = co_await two;
        co_return first.ok() ? second : first;
    };
    auto device =
        Device::create(std::make_shared<Writes>(serve), {.depth = 64, .threads = *threads});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    std::vector<std::thread> writers;
    for (int i = 0; i < 32; ++i) {
        writers.emplace_back([path = device->block_path()] {
            for (int round = 0; round < 10; ++round) EXPECT_EQ(write_block(path, 'o'), 0);
        });
    }
    for (auto& writer : writers) writer.join();
    EXPECT_EQ(device->metrics().total().errors(), 0U);
}

// ---- Registration that fails -------------------------------------------------------------------

// A real reactor that asks the driver to register the buffers of odd tags where there is no slot.
class OutOfSlots final : public Reactor {
public:
    OutOfSlots(std::unique_ptr<Reactor> real, std::atomic<int>& fallbacks)
        : real_(std::move(real)), fallbacks_(fallbacks) {}

    Result<FileSlot> register_file(int fd) override { return real_->register_file(fd); }
    void unregister_file(FileSlot file) noexcept override { real_->unregister_file(file); }
    Result<std::uint16_t> reserve_buffers(unsigned count) override {
        return real_->reserve_buffers(count);
    }
    void release_buffers(std::uint16_t first, unsigned count) noexcept override {
        real_->release_buffers(first, count);
    }
    Result<std::uint16_t> open_buffer_group(std::span<std::byte> memory, unsigned count) override {
        return real_->open_buffer_group(memory, count);
    }
    void recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept override {
        real_->recycle_buffer(group, buffer);
    }
    void close_buffer_group(std::uint16_t group) noexcept override {
        real_->close_buffer_group(group);
    }
    void io_command(const IoCommand& command, Operation& operation) noexcept override {
        constexpr std::uint16_t nowhere = 60'000;
        if (command.opcode == kernel::abi::u_io_register_io_buf) ++fallbacks_;
        IoCommand changed = command;
        if (command.registration != 0 && command.command.tag % 2 == 1) {
            changed.registration = kernel::encode_auto_buf_reg(nowhere, true);
        }
        real_->io_command(changed, operation);
    }
    void silent_io_command(const IoCommand& command) noexcept override {
        real_->silent_io_command(command);
    }
    void batch_command(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                       const std::byte* elements, Operation& operation) noexcept override {
        real_->batch_command(file, opcode, command, elements, operation);
    }
    void batch_fetch(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                     std::uint16_t group, Operation& operation) noexcept override {
        real_->batch_fetch(file, opcode, command, group, operation);
    }
    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override {
        real_->control_command(fd, opcode, command, operation);
    }
    void submit(const Submission& submission, Operation& operation) noexcept override {
        real_->submit(submission, operation);
    }
    void cancel(Operation& operation) noexcept override { real_->cancel(operation); }
    int run_once(std::optional<milliseconds> timeout) noexcept override {
        return real_->run_once(timeout);
    }
    void wake(Woken& woken) noexcept override { real_->wake(woken); }
    void post(std::move_only_function<void()> call) override { real_->post(std::move(call)); }
    void close() noexcept override { real_->close(); }

private:
    std::unique_ptr<Reactor> real_;
    std::atomic<int>& fallbacks_;
};

// The bytes of a disk in a memory file, routed to it.
class MemoryFile final : public Backend {
public:
    MemoryFile() : fd_(memfd_create("disk", MFD_CLOEXEC)) { EXPECT_EQ(ftruncate(fd_, kSize), 0); }
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile() override { close(fd_); }
    [[nodiscard]] std::string_view name() const noexcept override { return "memory-file"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::routes; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        class Routed final : public Session {
        public:
            explicit Routed(int fd) : fd_(fd) {}
            Task<> serve(Io& io, const Request& request) override {
                EXPECT_FALSE(request.buffer.is_memory());
                if (request.op == Op::read) {
                    co_return co_await io.read(fd_, request.buffer, request.offset);
                }
                co_return co_await io.write(fd_, request.buffer, request.offset);
            }

        private:
            int fd_;
        };
        return std::make_unique<Routed>(fd_);
    }

private:
    int fd_;
};

TEST(ZeroCopy, ABufferThatTheDriverCouldNotRegisterIsRegisteredByHand) {
    auto control = Control::open();
    ASSERT_TRUE(control);
    if ((*control->features() & kernel::abi::f_auto_buf_reg) == 0) {
        GTEST_SKIP() << "needs automatic buffer registration, kernel 6.16";
    }
    std::atomic<int> fallbacks = 0;
    const auto factory = [&](const ReactorOptions& options) -> Result<std::unique_ptr<Reactor>> {
        auto real = open_uring_reactor(options);
        if (!real) return std::unexpected(real.error());
        return std::make_unique<OutOfSlots>(std::move(*real), fallbacks);
    };
    auto pool = QueueThreadPool::create({.count = 1, .entries = 256, .buffers = 64},
                                        QueueThreadPool::Lifetime::shared, factory, "slots");
    ASSERT_TRUE(pool) << pool.error().message();
    auto device = Device::create(std::make_shared<MemoryFile>(),
                                 {.depth = 16, .data_path = DataPath::zero_copy, .threads = *pool});
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(device->start());
    for (int round = 0; round < 64; ++round) {
        const char content = static_cast<char>('a' + round % 26);
        ASSERT_EQ(write_block(device->block_path(), content), 0);
        ASSERT_EQ(read_block(device->block_path(), content), 0);
    }
    EXPECT_EQ(device->metrics().total().errors(), 0U);
    EXPECT_GT(fallbacks, 0);
    EXPECT_TRUE(device->remove());
}

}  // namespace
}  // namespace ashlar
