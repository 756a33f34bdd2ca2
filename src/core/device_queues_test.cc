#include "core/device_queues.h"

#include <gtest/gtest.h>
#include <atomic>
#include <cerrno>
#include <future>
#include <memory>

#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

// A backend whose sessions answer at once, or do not open.
class Plain final : public Backend {
public:
    explicit Plain(int error = 0) : error_(error) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "plain"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = 1 << 20}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        if (error_ != 0) return std::unexpected(Error{.operation = "open", .code = error_});
        return std::make_unique<test::RecordingSession>();
    }

private:
    int error_;
};

class DeviceQueuesTest : public testing::Test {
protected:
    Result<void> open(std::uint16_t queues, std::uint16_t threads_per_queue, unsigned threads,
                      int error = 0) {
        if (auto made = make(queues, threads_per_queue, threads, error); !made) return made;
        return queues_->open(*pool_, kernel_.device(), {}, 5s);
    }
    Result<void> make(std::uint16_t queues, std::uint16_t threads_per_queue, unsigned threads,
                      int error = 0) {
        queues_ = std::make_shared<DeviceQueues>(
            Serving{.info = {.queues = queues, .depth = 4, .io_max = 4096},
                    .choices = {},
                    .capabilities = {},
                    .threads_per_queue = threads_per_queue,
                    .backend = std::make_shared<Plain>(error)});
        const ReactorFactory factory =
            [](const ReactorOptions&) -> Result<std::unique_ptr<Reactor>> {
            return std::make_unique<test::FakeReactor>();
        };
        auto pool = QueueThreadPool::create({.count = threads},
                                            QueueThreadPool::Lifetime::one_device, factory, "test");
        if (!pool) return std::unexpected(pool.error());
        pool_ = std::move(*pool);
        return {};
    }

    test::FakeCharDevice kernel_{2};
    std::shared_ptr<QueueThreadPool> pool_;
    std::shared_ptr<DeviceQueues> queues_;
};

TEST_F(DeviceQueuesTest, LeavingClosesEveryPartAndIsNoFailure) {
    ASSERT_TRUE(open(2, 3, 4));
    EXPECT_EQ(queues_->part_count(), 6U);
    EXPECT_FALSE(queues_->closed());
    queues_->leave(Leaving::serving);
    EXPECT_TRUE(queues_->await_closed(5s));
    EXPECT_FALSE(queues_->failure());
    pool_.reset();
    EXPECT_EQ(queues_.use_count(), 1) << "its queues are gone";
}

TEST_F(DeviceQueuesTest, AbandonedTheyFailWithWhatIsSaid) {
    ASSERT_TRUE(open(2, 1, 1));
    queues_->abandon(Error{.operation = "test", .code = ETIMEDOUT});
    EXPECT_TRUE(queues_->await_closed(5s));
    ASSERT_TRUE(queues_->failure());
    EXPECT_EQ(queues_->failure()->operation, "test");
}

TEST_F(DeviceQueuesTest, ASessionThatDoesNotOpenIsTheError) {
    const auto opened = open(2, 1, 2, ECONNREFUSED);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ECONNREFUSED);
    EXPECT_TRUE(queues_->closed());
}

// On threads that go on for other devices: it would hold the device for ever.
TEST_F(DeviceQueuesTest, WhatWasGivenUpDoesNotOpenLater) {
    ASSERT_TRUE(make(1, 1, 1));
    std::promise<void> busy;
    std::promise<void> idle;
    ASSERT_TRUE(pool_->next().post([&, wait = busy.get_future()](QueueThread&) { wait.wait(); }));
    const auto opened = queues_->open(*pool_, kernel_.device(), {}, 10ms);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ETIMEDOUT);
    EXPECT_TRUE(queues_->await_closed(0ms));
    busy.set_value();
    ASSERT_TRUE(pool_->next().post([&](QueueThread&) { idle.set_value(); }));
    idle.get_future().wait();
    EXPECT_TRUE(queues_->closed());
}

TEST_F(DeviceQueuesTest, ThePoolMayGoFirst) {
    ASSERT_TRUE(open(1, 2, 2));
    pool_.reset();
    EXPECT_TRUE(queues_->closed());
    EXPECT_TRUE(queues_->failure()) << "their threads ended under them";
    std::vector<QueueMetrics> metrics(1);
    queues_->add_metrics(metrics);
    EXPECT_EQ(metrics[0][Op::read].count, 0U);
}

TEST_F(DeviceQueuesTest, PartsAreMoreThanSixteenBitsCount) {
    EXPECT_EQ(DeviceQueues::parts_of({.info = {.queues = 16},
                                      .choices = {},
                                      .capabilities = {},
                                      .threads_per_queue = 4096,
                                      .backend = nullptr}),
              65'536U);
}

}  // namespace
}  // namespace ashlar
