// What of devices can be tested without a driver; the rest is tests/vm.
#include "core/device_options.h"

#include <unistd.h>
#include <cerrno>

#include <gtest/gtest.h>

#include <ashlar/ashlar.h>

namespace ashlar {
namespace {

class ShapedBackend final : public Backend {
public:
    explicit ShapedBackend(const Geometry& geometry) : geometry_(geometry) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "shaped"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        ADD_FAILURE() << "no session is opened before the device stands";
        return std::unexpected(Error{.operation = "open session", .code = EIO});
    }

private:
    Geometry geometry_;
};

// Why a device cannot be made; "" if it can.
Error refusal(const DeviceOptions& options, const Geometry& geometry = {.size = 1 << 20}) {
    auto device = Device::create(std::make_shared<ShapedBackend>(geometry), options);
    return device ? Error{} : device.error();
}

std::string refused(const DeviceOptions& options) {
    const Error error = refusal(options);
    EXPECT_EQ(error.code, EINVAL);
    EXPECT_EQ(error.operation, "check settings");
    return error.detail;
}

TEST(DeviceOptions, QueuesOutOfRange) {
    EXPECT_EQ(refused({.queues = 0}), "queues is 0; allowed are 1 to 4096");
    EXPECT_EQ(refused({.queues = 4097}), "queues is 4097; allowed are 1 to 4096");
    EXPECT_EQ(refused({.queues = 5000}), "queues is 5000; allowed are 1 to 4096");
}

TEST(DeviceOptions, DepthOutOfRange) {
    EXPECT_EQ(refused({.depth = 0}), "depth is 0; allowed are 1 to 4096");
    EXPECT_EQ(refused({.depth = 4097}), "depth is 4097; allowed are 1 to 4096");
    EXPECT_EQ(refused({.depth = 5000}), "depth is 5000; allowed are 1 to 4096");
}

TEST(DeviceOptions, IoMaxOutOfRange) {
    const std::string allowed = " bytes; allowed are multiples of 4096 up to 33554432";
    EXPECT_EQ(refused({.io_max = 0}), "io_max is 0" + allowed);
    EXPECT_EQ(refused({.io_max = 512}), "io_max is 512" + allowed);
    EXPECT_EQ(refused({.io_max = 4097}), "io_max is 4097" + allowed);
    EXPECT_EQ(refused({.io_max = (32 << 20) + 4096}), "io_max is 33558528" + allowed);
    EXPECT_EQ(refused({.io_max = 0xffff'ffff}), "io_max is 4294967295" + allowed);
}

TEST(DeviceOptions, ThreadsPerQueue) {
    EXPECT_EQ(refused({.depth = 8, .threads_per_queue = 0}),
              "threads per queue is 0; allowed are 1 to the depth, 8");
    EXPECT_EQ(refused({.depth = 8, .threads_per_queue = 9}),
              "threads per queue is 9; allowed are 1 to the depth, 8");
    EXPECT_TRUE(check_device_options({.depth = 8, .threads_per_queue = 8}, {.size = 512}));
}

TEST(DeviceOptions, ThreadCount) {
    EXPECT_EQ(refused({.thread_count = 1025}),
              "thread count is 1025; allowed are 1 to 1024, and 0 for the best");
    EXPECT_TRUE(check_device_options({.thread_count = 1024}, {.size = 512}));
    EXPECT_TRUE(check_device_options({.thread_count = 0}, {.size = 512}));
}

TEST(DeviceOptions, Polling) {
    using std::chrono::microseconds;
    using std::chrono::milliseconds;
    EXPECT_EQ(refused({.polling = SubmissionPolling{.idle = milliseconds(0)}}),
              "idle time of polling is 0 ms; it must be 1 or more");
    EXPECT_TRUE(check_device_options({.polling = SubmissionPolling{.idle = milliseconds(1)}},
                                     {.size = 512}));
    EXPECT_EQ(refused({.busy_poll = microseconds(1001)}),
              "busy polling is for 1001 us; allowed are 0 to 1000");
    EXPECT_EQ(refused({.busy_poll = microseconds(-1)}),
              "busy polling is for -1 us; allowed are 0 to 1000");
    EXPECT_TRUE(check_device_options({.busy_poll = kBusyPollMost}, {.size = 512}));
    auto threads = QueueThreads::create({.count = 1, .entries = 4});
    ASSERT_TRUE(threads) << threads.error().message();
    EXPECT_EQ(refused({.busy_poll = microseconds(1), .threads = *threads}),
              "polling is a setting of the shared threads (QueueThreads::Options)");
    EXPECT_EQ(refused({.polling = SubmissionPolling{}, .threads = *threads}),
              "polling is a setting of the shared threads (QueueThreads::Options)");
}

TEST(DeviceOptions, GeometryOfTheBackend) {
    const Error size = refusal({}, {.size = 1000});
    EXPECT_EQ(size.code, EINVAL);
    EXPECT_EQ(size.message(),
              "check settings: size is 1000; it must be a multiple of the logical "
              "block size 512 (EINVAL: Invalid argument)");
    const Error block = refusal({}, {.size = 4096, .logical_block_size = 520});
    EXPECT_EQ(block.code, EINVAL);
    EXPECT_EQ(block.detail, "logical block size is 520; allowed are 512, 1024, 2048 and 4096");
}

TEST(DeviceOptions, TheLimitsThemselvesAreAllowed) {
    for (const DeviceOptions& options :
         {DeviceOptions{.queues = 1, .depth = 1, .io_max = 4096},
          DeviceOptions{.queues = 4096, .depth = 4096, .io_max = 32 << 20}}) {
        EXPECT_TRUE(check_device_options(options, {.size = 512}));
        // Without a driver, or without rights, it fails, but for another reason.
        EXPECT_NE(refusal(options).operation, "check settings");
    }
}

TEST(CheckGeometry, IsTheSameCheck) {
    EXPECT_TRUE(check_geometry({.size = 512}));
    const auto refused_geometry = check_geometry({.size = 0});
    ASSERT_FALSE(refused_geometry);
    EXPECT_EQ(refused_geometry.error().code, EINVAL);
    EXPECT_EQ(refused_geometry.error().detail, "size is 0; it must be at least one logical block");
}

TEST(Control, OpensExactlyWhereThereIsADriver) {
    auto control = Control::open();
    if (access("/dev/ublk-control", F_OK) != 0) {
        ASSERT_FALSE(control);
        EXPECT_EQ(control.error().code, ENOENT);
        EXPECT_NE(control.error().message().find("modprobe ublk_drv"), std::string::npos)
            << control.error().message();
        auto device = Device::create(std::make_shared<ShapedBackend>(Geometry{.size = 1 << 20}));
        ASSERT_FALSE(device);
        EXPECT_EQ(device.error().message(), control.error().message());
    } else if (access("/dev/ublk-control", R_OK | W_OK) == 0) {
        EXPECT_TRUE(control) << control.error().message();
    } else {
        ASSERT_FALSE(control);
        EXPECT_EQ(control.error().code, EACCES);
    }
}

TEST(DeviceStage, Names) {
    EXPECT_EQ(name(DeviceStage::created), "created");
    EXPECT_EQ(name(DeviceStage::serving), "serving");
    EXPECT_EQ(name(DeviceStage::stopping), "stopping");
    EXPECT_EQ(name(DeviceStage::stopped), "stopped");
    EXPECT_EQ(name(DeviceStage::failed), "failed");
    EXPECT_EQ(name(DeviceStage::removed), "removed");
    EXPECT_EQ(name(DeviceState::dead), "dead");
    EXPECT_EQ(name(DeviceState::live), "live");
    EXPECT_EQ(name(DeviceState::quiesced), "quiesced");
    EXPECT_EQ(name(DeviceState::fail_io), "fail_io");
}

TEST(Features, EachHasANameAndAReleaseAndUnknownBitsHaveANumber) {
    const auto all = known_features();
    EXPECT_EQ(all.size(), 21U);
    std::uint64_t mask = 0;
    for (const FeatureDescription& feature : all) {
        EXPECT_GT(feature.flag, mask) << "by bit";
        mask |= feature.flag;
        EXPECT_FALSE(feature.name.empty());
        EXPECT_FALSE(feature.since.empty());
        EXPECT_FALSE(feature.what.empty());
        EXPECT_EQ(feature_names(feature.flag), std::vector<std::string>{std::string(feature.name)});
    }
    EXPECT_TRUE(feature_names(0).empty());
    EXPECT_EQ(feature_names(std::uint64_t{1} << 63 | 1),
              (std::vector<std::string>{"support_zero_copy", "bit_63"}));
}

}  // namespace
}  // namespace ashlar
