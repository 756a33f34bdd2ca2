#include "core/live_metrics.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

QueueMetrics read(const LiveMetrics& live) {
    QueueMetrics metrics;
    live.add_to(metrics);
    return metrics;
}

TEST(LiveMetrics, CountsWithoutTimes) {
    LiveMetrics live;
    EXPECT_EQ(live.times(), nullptr);
    live.begun();
    live.begun();
    live.begun();
    live.answered({.length = 4096, .op = Op::write}, false);
    live.answered({.op = Op::flush}, true);
    const QueueMetrics metrics = read(live);
    EXPECT_EQ(metrics[Op::write].count, 1U);
    EXPECT_EQ(metrics[Op::write].bytes, 4096U);
    EXPECT_EQ(metrics[Op::write].errors, 0U);
    EXPECT_EQ(metrics[Op::flush].errors, 1U);
    EXPECT_EQ(metrics.in_flight, 1U);
    EXPECT_EQ(metrics[Op::write].latency.count(), 0U);
}

TEST(LiveMetrics, WaitsForTheOthersOfItsRound) {
    using namespace std::chrono_literals;
    LiveMetrics live(true);
    LiveTimes& times = *live.times();
    const Request request{.length = 512, .op = Op::read};
    const auto first = times.begin(1);
    EXPECT_EQ(first.arrived, first.started);
    std::this_thread::sleep_for(2ms);
    times.answered(request, first);
    live.answered(request, false);
    const RequestTimes took = times.took(first);
    EXPECT_EQ(took.waiting, 0ns);
    EXPECT_GE(took.service, 2ms);
    const auto second = times.begin(1);
    EXPECT_EQ(second.arrived, first.arrived) << "they came together";
    EXPECT_GT(second.started, second.arrived);
    times.answered(request, second);
    live.answered(request, false);
    const auto third = times.begin(2);
    EXPECT_EQ(third.arrived, third.started) << "a new round";
    EXPECT_GE(third.arrived, second.started);
    static_cast<void>(times.begin(3));
    const QueueMetrics metrics = read(live);
    EXPECT_EQ(metrics[Op::read].latency.count(), 2U);
    EXPECT_EQ(metrics[Op::read].waiting.count(), 2U);
    EXPECT_GE(metrics[Op::read].waiting.max(), 2'000'000U);
    EXPECT_GE(metrics[Op::read].waiting.sum(), 2'000'000U);
    EXPECT_GE(metrics[Op::read].service.sum(), 2'000'000U);
    EXPECT_EQ(metrics[Op::read].latency.sum(),
              metrics[Op::read].waiting.sum() + metrics[Op::read].service.sum());
    EXPECT_LE(metrics[Op::read].service.max(), metrics[Op::read].latency.max());
    EXPECT_EQ(metrics[Op::read].size.max(), 512U);
    EXPECT_EQ(metrics[Op::read].size.sum(), 1024U);
    EXPECT_EQ(metrics.batch.count(), 2U) << "that of the last round is not known yet";
    EXPECT_EQ(metrics.batch.sum(), 3U);
}

TEST(LiveMetrics, IsReadWhileItIsWritten) {
    LiveMetrics live(true);
    std::atomic<bool> done = false;
    std::thread writer([&] {
        const Request request{.length = 4096, .op = Op::read};
        for (std::uint64_t round = 1; round < 50'000; ++round) {
            live.begun();
            live.times()->answered(request, live.times()->begin(round));
            live.answered(request, false);
        }
        done = true;
    });
    while (!done) {
        const QueueMetrics metrics = read(live);
        EXPECT_LE(metrics.in_flight, 50'000U);
    }
    writer.join();
    EXPECT_EQ(read(live)[Op::read].latency.count(), 49'999U);
    EXPECT_EQ(read(live).in_flight, 0U);
}

class QueueTimes : public test::QueueFixture {};

TEST_F(QueueTimes, EachAnswerIsTimed) {
    auto& session = start();
    serve(make_descriptor(abi::io_op_read, 0, 8));
    serve(make_descriptor(abi::io_op_flush));
    session.answer = [](const Request&) { return IoResult::from_errno(EIO); };
    serve(make_descriptor(abi::io_op_write, 0, 16));
    const QueueMetrics metrics = owner->counted();
    EXPECT_EQ(metrics[Op::read].latency.count(), 1U);
    EXPECT_EQ(metrics[Op::read].size.sum(), 4096U);
    EXPECT_EQ(metrics[Op::flush].latency.count(), 1U);
    EXPECT_EQ(metrics[Op::flush].size.count(), 0U);
    EXPECT_EQ(metrics[Op::write].latency.count(), 1U) << "an error is an answer";
    EXPECT_EQ(metrics[Op::write].errors, 1U);
    EXPECT_EQ(metrics.in_flight, 0U);
}

TEST_F(QueueTimes, WhatHasNoAnswerIsInFlight) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 8, 8)));
    EXPECT_EQ(owner->counted().in_flight, 2U);
    ASSERT_TRUE(session.resume(0, IoResult::bytes(4096)));
    EXPECT_EQ(owner->counted().in_flight, 1U);
}

TEST_F(QueueTimes, AWriteThatWaitsForItsDataBeginsOnce) {
    config.data_path = DataPath::get_data;
    start();
    kernel.put(0, 0, make_descriptor(abi::io_op_write, 0, 8));
    ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_need_get_data));
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_write, 0, 8)));
    EXPECT_EQ(committed(0), 4096);
    const QueueMetrics metrics = owner->counted();
    EXPECT_EQ(metrics[Op::write].latency.count(), 1U);
    EXPECT_EQ(metrics.in_flight, 0U);
}

class RememberingObserver final : public Observer {
public:
    void answered(DeviceId device, const Request& request, IoResult result,
                  const RequestTimes& times) noexcept override {
        devices.push_back(device);
        requests.push_back(request);
        results.push_back(result);
        took.push_back(times);
    }
    std::vector<DeviceId> devices;
    std::vector<Request> requests;
    std::vector<IoResult> results;
    std::vector<RequestTimes> took;
};

TEST_F(QueueTimes, AnObserverIsToldOfEachAnswer) {
    RememberingObserver told;
    observer = &told;
    auto& session = start();
    serve(make_descriptor(abi::io_op_write, 16, 8));
    session.answer = [](const Request&) { return IoResult::from_errno(ENOSPC); };
    serve(make_descriptor(abi::io_op_discard, 0, 8));
    ASSERT_EQ(told.requests.size(), 2U);
    EXPECT_EQ(told.devices[0], DeviceId{7});
    EXPECT_EQ(told.requests[0].op, Op::write);
    EXPECT_EQ(told.requests[0].offset, 8192U);
    EXPECT_TRUE(told.results[0].ok());
    EXPECT_EQ(told.requests[1].op, Op::discard);
    EXPECT_EQ(told.results[1].error(), ENOSPC);
    EXPECT_GE(told.took[1].service.count(), 0);
}

}  // namespace
}  // namespace ashlar
