#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "conformance/backend_conformance.h"
#include "layers/members/test_member.h"
#include "support/fake_reactor.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

constexpr Geometry kGeometry{.size = 1 << 20};
constexpr Capabilities kAll{.flush = true, .fua = true, .discard = true, .write_zeroes = true};

std::shared_ptr<Backend> memory() { return open_memory({.geometry = kGeometry}).value(); }

TEST(Delay, Conforms) {
    const Latency some{.shape = Latency::Shape::uniform, .mean = 20us, .spread = 20us};
    const DelayOptions options{.read = some, .write = some, .flush = some, .discard = some};
    EXPECT_EQ(test::check_conformance(
                  {.open = [&] { return open_delay(memory(), options); }, .operations = 300}),
              "");
}

TEST(Delay, ConformsOverADelay) {
    const DelayOptions options{.write = {.mean = 10us}, .write_zeroes = {.mean = 10us}};
    EXPECT_EQ(
        test::check_conformance(
            {.open = [&] { return open_delay(open_delay(memory(), options).value(), options); },
             .operations = 300}),
        "");
}

// Without a ring: the test sees each sleep and ends it.
class DelayTest : public testing::Test {
protected:
    void open(const DelayOptions& options) {
        backend = open_delay(inner, options).value();
        session = backend->open_session(io).value();
    }
    Task<> start(const Request& request) { return session->serve(io, request); }
    nanoseconds time_of(std::size_t place) const {
        const Submission& submission = *reactor.pending().at(place).submission;
        EXPECT_EQ(submission.kind, Submission::Kind::sleep);
        return std::chrono::seconds(submission.time.seconds) +
               nanoseconds(submission.time.nanoseconds);
    }
    void wake(std::size_t place, std::int32_t result = -ETIME) { reactor.complete(place, result); }
    // The delays of so many reads.
    std::vector<nanoseconds> draw(const Latency& latency, std::size_t count,
                                  std::uint64_t seed = 1) {
        open({.read = latency, .seed = seed});
        return draw(count);
    }
    std::vector<nanoseconds> draw(std::size_t count) {
        std::vector<nanoseconds> times;
        const Request request{.length = 512, .op = Op::read};
        for (std::size_t i = 0; i < count; ++i) {
            const Task<> task = start(request);
            times.push_back(task.done() ? 0ns : time_of(0));
            if (!task.done()) wake(0);
        }
        return times;
    }
    static double mean_of(const std::vector<nanoseconds>& times) {
        double sum = 0;
        for (const nanoseconds time : times) sum += static_cast<double>(time.count());
        return sum / static_cast<double>(times.size());
    }
    static double deviation_of(const std::vector<nanoseconds>& times) {
        const double mean = mean_of(times);
        double sum = 0;
        for (const nanoseconds time : times) {
            sum += std::pow(static_cast<double>(time.count()) - mean, 2);
        }
        return std::sqrt(sum / static_cast<double>(times.size()));
    }

    test::FakeReactor reactor;
    OffloadPool offload;
    IoScope scope{reactor, offload};
    alignas(std::max_align_t) std::byte frames[8192];
    Arena arena{frames, sizeof(frames)};
    Io io{arena, scope};
    std::shared_ptr<test::TestMember> inner = std::make_shared<test::TestMember>(kGeometry, kAll);
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
};

TEST_F(DelayTest, ARequestGoesOnAfterItsTime) {
    open({.read = {.mean = 1500ms}});
    const Request request{.offset = 4096, .length = 512, .op = Op::read};
    const Task<> task = start(request);
    EXPECT_FALSE(task.done());
    EXPECT_TRUE(inner->requests.empty());
    ASSERT_EQ(reactor.pending().size(), 1U);
    EXPECT_EQ(time_of(0), 1500ms);
    inner->answer = [](const Request&) { return IoResult::from_errno(ENOSPC); };
    wake(0);
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().error(), ENOSPC);
    ASSERT_EQ(inner->requests.size(), 1U);
    EXPECT_EQ(inner->requests[0].offset, 4096U);
}

TEST_F(DelayTest, RequestsSleepTogetherAndGoOnInTheOrderOfTheirTimes) {
    open({.write = {.mean = 10ms}});
    std::vector<Request> requests;
    std::vector<Task<>> tasks;
    for (std::uint64_t i = 0; i < 64; ++i) {
        requests.push_back({.offset = i * 512, .length = 512, .op = Op::write});
    }
    for (const Request& request : requests) tasks.push_back(start(request));
    EXPECT_EQ(reactor.pending().size(), 64U) << "all before the first one's end";
    EXPECT_TRUE(inner->requests.empty());
    for (std::uint64_t left = 64; left-- > 0;) {
        wake(left);
        EXPECT_EQ(inner->requests.back().offset, left * 512);
    }
    for (const Task<>& task : tasks) EXPECT_TRUE(task.done());
}

TEST_F(DelayTest, WithoutLatencyARequestGoesOnAtOnceAndWithoutAFrame) {
    open({.write = {.mean = 10ms}});
    inner->parks = true;
    const Request request{.length = 512, .op = Op::read};
    const Task<> task = start(request);
    EXPECT_TRUE(reactor.pending().empty());
    ASSERT_EQ(inner->parked.size(), 1U);
    EXPECT_EQ(inner->parked[0].request, &request);
    inner->resume(0);
    EXPECT_TRUE(task.done());
}

TEST_F(DelayTest, EachOperationHasItsOwnLatency) {
    open({.read = {.mean = 1ms},
          .write = {.mean = 2ms},
          .flush = {.mean = 3ms},
          .discard = {.mean = 4ms},
          .write_zeroes = {.mean = 5ms}});
    nanoseconds expected = 0ms;
    for (const Op op : {Op::read, Op::write, Op::flush, Op::discard, Op::write_zeroes}) {
        expected += 1ms;
        const Request request{.op = op};
        const Task<> task = start(request);
        EXPECT_EQ(time_of(0), expected) << name(op);
        wake(0);
        EXPECT_TRUE(task.done());
    }
    const Request zone{.op = Op::report_zones};
    EXPECT_TRUE(start(zone).done());
}

TEST_F(DelayTest, ACancelledSleepDoesNotReachTheDisk) {
    open({.read = {.mean = 1h}});
    const Request request{.length = 512, .op = Op::read};
    const Task<> task = start(request);
    scope.cancel_all();
    EXPECT_TRUE(reactor.pending().at(0).cancelled);
    wake(0, -ECANCELED);
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().error(), ECANCELED);
    EXPECT_TRUE(inner->requests.empty());
}

// ---- Shapes: with a fixed seed, so these hold always or never ----------------------------------

TEST_F(DelayTest, Uniform) {
    const auto times = draw({.shape = Latency::Shape::uniform, .mean = 10ms, .spread = 4ms}, 5000);
    EXPECT_NEAR(mean_of(times), 10e6, 0.1e6);
    EXPECT_NEAR(static_cast<double>(std::ranges::min(times).count()), 6e6, 0.05e6);
    EXPECT_NEAR(static_cast<double>(std::ranges::max(times).count()), 14e6, 0.05e6);
    EXPECT_GE(std::ranges::min(times), 6ms);
    EXPECT_LE(std::ranges::max(times), 14ms);
}

TEST_F(DelayTest, Normal) {
    const auto times = draw({.shape = Latency::Shape::normal, .mean = 10ms, .spread = 2ms}, 5000);
    EXPECT_NEAR(mean_of(times), 10e6, 0.1e6);
    EXPECT_NEAR(deviation_of(times), 2e6, 0.1e6);
}

TEST_F(DelayTest, NormalIsNeverNegative) {
    const auto times = draw({.shape = Latency::Shape::normal, .mean = 1ms, .spread = 5ms}, 1000);
    const auto none = std::ranges::count(times, 0ns);
    EXPECT_NEAR(static_cast<double>(none), 420, 60);
    EXPECT_EQ(std::ranges::min(times), 0ns);
}

TEST_F(DelayTest, Exponential) {
    const auto times = draw({.shape = Latency::Shape::exponential, .mean = 10ms}, 5000);
    EXPECT_NEAR(mean_of(times), 10e6, 0.5e6);
    EXPECT_NEAR(deviation_of(times), 10e6, 0.7e6);
    EXPECT_GT(std::ranges::max(times), 60ms);
}

TEST_F(DelayTest, TheSeedDecides) {
    const Latency latency{.shape = Latency::Shape::exponential, .mean = 10ms};
    const auto first = draw(latency, 20, 7);
    session = backend->open_session(io).value();
    EXPECT_NE(draw(20), first) << "sessions of one disk differ";
    EXPECT_EQ(draw(latency, 20, 7), first);
    EXPECT_NE(draw(latency, 20, 9), first);
}

// ---- The rest ----------------------------------------------------------------------------------

TEST_F(DelayTest, IsWhatItWrapsButNeverHoldsData) {
    open({});
    EXPECT_EQ(backend->name(), "delay");
    EXPECT_EQ(backend->geometry().size, kGeometry.size);
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_TRUE(backend->capabilities().fua);
    EXPECT_EQ(backend->data_access(), DataAccess::sees);
    inner->access = DataAccess::holds;
    EXPECT_EQ(backend->data_access(), DataAccess::sees);
    inner->access = DataAccess::routes;
    EXPECT_EQ(backend->data_access(), DataAccess::routes);
    inner->copied = 4096;
    EXPECT_EQ(backend->copied_write_max(), 4096U);
    session->close();
    EXPECT_EQ(inner->closed, 1);
    inner->open_error = EMFILE;
    EXPECT_EQ(backend->open_session(io).error().code, EMFILE);
}

TEST(Delay, SleepsOnARealRing) {
    test::RingRunner ring;
    auto inner = std::make_shared<test::TestMember>(kGeometry);
    const auto backend = open_delay(inner, {.read = {.mean = 10ms}}).value();
    const auto session = backend->open_session(ring.io()).value();
    const Request request{.length = 512, .op = Op::read};
    std::vector<Task<>> tasks;
    for (int i = 0; i < 64; ++i) tasks.push_back(session->serve(ring.io(), request));
    EXPECT_TRUE(inner->requests.empty());
    const auto all_done = [&] { return std::ranges::all_of(tasks, &Task<>::done); };
    ring.run_until(all_done);
    EXPECT_EQ(inner->requests.size(), 64U);
    for (const Task<>& task : tasks) EXPECT_TRUE(task.result().ok());
}

TEST(Delay, RefusesWhatIsNoLatency) {
    const auto refused = [](const Latency& latency) {
        const auto opened = open_delay(memory(), {.flush = latency});
        EXPECT_EQ(opened ? 0 : opened.error().code, EINVAL);
        return opened ? std::string() : opened.error().detail;
    };
    EXPECT_EQ(refused({.mean = -1ns}),
              "flush: mean is -1 ns; allowed are 0 to 3600000000000 (an hour)");
    EXPECT_EQ(refused({.mean = 2h}),
              "flush: mean is 7200000000000 ns; allowed are 0 to 3600000000000 (an hour)");
    EXPECT_EQ(refused({.shape = Latency::Shape::normal, .mean = 1ms, .spread = -5ns}),
              "flush: spread is -5 ns; allowed are 0 to 3600000000000 (an hour)");
    EXPECT_EQ(refused({.shape = Latency::Shape::uniform, .mean = 1us, .spread = 2us}),
              "flush: spread is 2000 ns; uniform allows at most the mean");
    EXPECT_EQ(refused({.mean = 1us, .spread = 2us}),
              "flush: spread is 2000 ns; only uniform and normal have one");
    EXPECT_EQ(open_delay(memory(), {.read = {.mean = -1ns}}).error().message(),
              "open delay layer: read: mean is -1 ns; allowed are 0 to 3600000000000 (an hour) "
              "(EINVAL: Invalid argument)");
}

}  // namespace
}  // namespace ashlar
