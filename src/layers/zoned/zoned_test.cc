#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "backends/file/test_directory.h"
#include "support/failed_sync.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

constexpr std::uint64_t kZone = 64 * 1024;

class ZonedTest : public testing::Test {
protected:
    void open(const ZonedOptions& options = {.zone_size = kZone}) {
        session.reset();
        inner_session.reset();
        backend.reset();
        if (!inner) inner = open_memory({.geometry = {.size = 8 * kZone}}).value();
        auto opened = open_zoned(inner, options);
        ASSERT_TRUE(opened) << opened.error().message();
        backend = *opened;
        session = backend->open_session(ring.io()).value();
        inner_session = inner->open_session(ring.io()).value();
    }
    IoResult run(Op op, std::uint64_t offset, std::uint64_t length, int value = 0) {
        data.assign(length, static_cast<std::byte>(value));
        request = {.offset = offset,
                   .length = length,
                   .op = op,
                   .buffer = Buffer::memory(data.data(), static_cast<std::uint32_t>(length))};
        return ring.run(session->serve(ring.io(), request));
    }
    static std::shared_ptr<Backend> slow(const DelayOptions& delays) {
        return open_delay(open_memory({.geometry = {.size = 8 * kZone}}).value(), delays).value();
    }
    // How many bytes of the last read have this value.
    std::size_t count(int value) {
        return static_cast<std::size_t>(std::ranges::count(data, static_cast<std::byte>(value)));
    }
    test::RingRunner ring;
    file::TestDirectory directory;
    std::shared_ptr<Backend> inner;
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::unique_ptr<Session> inner_session;
    std::vector<std::byte> data;
    Request request;
};

TEST_F(ZonedTest, SaysWhatItIs) {
    open({.zone_size = kZone, .open_max = 2, .active_max = 3});
    EXPECT_EQ(backend->name(), "zoned");
    EXPECT_EQ(backend->geometry().zones.size, kZone);
    EXPECT_EQ(backend->geometry().zones.open_max, 2U);
    EXPECT_EQ(backend->geometry().zones.active_max, 3U);
    EXPECT_FALSE(backend->capabilities().discard);
    EXPECT_FALSE(backend->capabilities().flush);
}

TEST_F(ZonedTest, ReadsWhatWasWrittenAndZeroesBeyond) {
    open();
    EXPECT_TRUE(run(Op::write, 0, 4096, 5).ok());
    EXPECT_EQ(run(Op::read, 0, 16384, 1), IoResult::bytes(16384));
    EXPECT_EQ(count(5), 4096U);
    EXPECT_EQ(count(0), 12288U);
    EXPECT_TRUE(run(Op::read, 8192, 4096, 1).ok());
    EXPECT_EQ(count(0), 4096U);
    EXPECT_TRUE(run(Op::read, 0, 4096, 1).ok());
    EXPECT_EQ(count(5), 4096U);
    EXPECT_EQ(run(Op::read, kZone - 4096, 8192).error(), EIO) << "across zones";
}

TEST_F(ZonedTest, WhatTheDiskHadBeforeIsNotSeen) {
    open();
    EXPECT_TRUE(run(Op::write, kZone, kZone, 5).ok());
    EXPECT_TRUE(run(Op::zone_reset, kZone, kZone).ok());
    EXPECT_TRUE(run(Op::read, kZone, kZone, 1).ok());
    EXPECT_EQ(count(0), kZone);
    EXPECT_TRUE(run(Op::write, kZone, 512, 6).ok());
    EXPECT_TRUE(run(Op::read, kZone, kZone, 1).ok());
    EXPECT_EQ(count(6), 512U);
    EXPECT_EQ(count(0), kZone - 512);
}

TEST_F(ZonedTest, AResetGivesTheSpaceBack) {
    open();
    EXPECT_TRUE(run(Op::write, 0, kZone, 5).ok());
    EXPECT_TRUE(run(Op::write, 2 * kZone, kZone, 5).ok());
    EXPECT_TRUE(run(Op::zone_reset_all, 0, 0).ok());
    std::vector<std::byte> below(kZone, std::byte{1});
    for (const std::uint64_t start : {std::uint64_t{0}, 2 * kZone}) {
        const Request read{.offset = start,
                           .length = kZone,
                           .op = Op::read,
                           .buffer = Buffer::memory(below.data(), kZone)};
        ASSERT_TRUE(ring.run(inner_session->serve(ring.io(), read)).ok());
        EXPECT_EQ(std::ranges::count(below, std::byte{0}), static_cast<long>(kZone));
    }
    EXPECT_TRUE(run(Op::write, 2 * kZone, 4096, 5).ok()) << "from the start again";
}

TEST_F(ZonedTest, AResetDoesNotTakeWhatIsWrittenAfterIt) {
    inner = slow({.discard = {.mean = std::chrono::milliseconds(50)}});
    open();
    EXPECT_TRUE(run(Op::write, 0, 4096, 5).ok());
    const Request reset{.offset = 0, .length = kZone, .op = Op::zone_reset};
    const Task<> resetting = session->serve(ring.io(), reset);
    EXPECT_FALSE(resetting.done());
    EXPECT_EQ(run(Op::write, 0, 4096, 6).error(), EIO);
    EXPECT_EQ(run(Op::zone_append, 0, 4096, 6).error(), EIO);
    EXPECT_TRUE(run(Op::write, kZone, 4096, 6).ok()) << "another zone";
    ring.run_until([&] { return resetting.done(); });
    EXPECT_TRUE(resetting.result().ok());
    EXPECT_TRUE(run(Op::write, 0, 4096, 7).ok());
    EXPECT_TRUE(run(Op::read, 0, 4096).ok());
    EXPECT_EQ(count(7), 4096U);
}

TEST_F(ZonedTest, AResetWaitsForWritesThatBeganBeforeIt) {
    inner = slow({.write = {.mean = std::chrono::milliseconds(50)}});
    open();
    std::vector<std::byte> old(4096, std::byte{5});
    const Request write{
        .length = 4096, .op = Op::write, .buffer = Buffer::memory(old.data(), 4096)};
    const Task<> writing = session->serve(ring.io(), write);
    const Request reset{.offset = 0, .length = kZone, .op = Op::zone_reset};
    std::vector<Task<>> resets;
    for (int i = 0; i < 2; ++i) resets.push_back(session->serve(ring.io(), reset));
    EXPECT_EQ(run(Op::write, 4096, 4096).error(), EIO);
    ring.run_until([&] { return resets[0].done() && resets[1].done(); });
    EXPECT_TRUE(writing.done()) << "or its data would come after what is written next";
    EXPECT_TRUE(resets[0].result().ok());
    EXPECT_TRUE(resets[1].result().ok());
    EXPECT_TRUE(run(Op::write, 0, 4096, 6).ok());
    EXPECT_TRUE(run(Op::read, 0, 4096).ok());
    EXPECT_EQ(count(6), 4096U);
}

TEST_F(ZonedTest, AResetThatIsCancelledLetsOthersIn) {
    inner = slow({.write = {.mean = std::chrono::hours(1)}});
    open();
    std::vector<std::byte> old(4096, std::byte{5});
    const Request write{
        .length = 4096, .op = Op::write, .buffer = Buffer::memory(old.data(), 4096)};
    const Task<> writing = session->serve(ring.io(), write);
    const Request reset{.offset = 0, .length = kZone, .op = Op::zone_reset};
    const Task<> resetting = session->serve(ring.io(), reset);
    ring.cancel();
    ring.run_until([&] { return writing.done() && resetting.done(); });
    EXPECT_EQ(writing.result().error(), ECANCELED);
    test::RingRunner another;
    EXPECT_TRUE(another.run(session->serve(another.io(), reset)).ok());
}

TEST_F(ZonedTest, AppendsAnswerWhere) {
    open();
    EXPECT_EQ(run(Op::zone_append, kZone, 4096, 1), IoResult::bytes(kZone));
    EXPECT_EQ(run(Op::zone_append, kZone, 4096, 2), IoResult::bytes(kZone + 4096));
    EXPECT_TRUE(run(Op::read, kZone + 4096, 4096).ok());
    EXPECT_EQ(count(2), 4096U);
    EXPECT_EQ(run(Op::zone_append, kZone, kZone).error(), EIO);
}

TEST_F(ZonedTest, ConventionalZonesAreWrittenAnywhere) {
    open({.zone_size = kZone, .conventional = 1});
    EXPECT_EQ(run(Op::zone_reset, 0, kZone).error(), EIO);
    EXPECT_TRUE(run(Op::write, 8192, 4096, 3).ok());
    EXPECT_TRUE(run(Op::write, 0, 4096, 3).ok());
    EXPECT_TRUE(run(Op::read, 0, 16384).ok());
    EXPECT_EQ(count(3), 8192U);
    EXPECT_EQ(run(Op::write, kZone + 4096, 4096).error(), EIO);
}

TEST_F(ZonedTest, AWriteThatFailsBelowDoesNotMoveThePointer) {
    Fault fault{.code = ENOSPC, .operations = {Op::write}, .range = Range{4096, 4096}};
    inner = open_fault(open_memory({.geometry = {.size = 8 * kZone}}).value(), {.faults = {fault}})
                .value();
    open();
    EXPECT_TRUE(run(Op::write, 0, 4096).ok());
    EXPECT_EQ(run(Op::write, 4096, 4096).error(), ENOSPC);
    EXPECT_EQ(run(Op::zone_append, 0, 4096).error(), ENOSPC);
    EXPECT_EQ(run(Op::write, 8192, 4096).error(), EIO);
    std::vector<Zone> zones(1);
    request = {.length = sizeof(Zone),
               .op = Op::report_zones,
               .buffer = Buffer::memory(reinterpret_cast<std::byte*>(zones.data()), sizeof(Zone))};
    EXPECT_EQ(ring.run(session->serve(ring.io(), request)), IoResult::bytes(1));
    EXPECT_EQ(zones[0].write_pointer, 4096U);
}

TEST_F(ZonedTest, WithAStateFileItHasSomethingToFlush) {
    const std::string state = directory / "zones";
    open({.zone_size = kZone, .state = state, .create = true});
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_TRUE(run(Op::write, 0, 4096, 5).ok());
    EXPECT_TRUE(run(Op::flush, 0, 0).ok());
    open({.zone_size = kZone, .state = state});
    EXPECT_TRUE(run(Op::read, 0, 4096).ok());
    EXPECT_EQ(count(5), 4096U);
    EXPECT_EQ(run(Op::write, 8192, 4096).error(), EIO);
}

TEST_F(ZonedTest, AFailedSyncIsNotForgotten) {
    open({.zone_size = kZone, .state = directory / "zones", .create = true});
    test::FailedSync().check(backend);
}

TEST_F(ZonedTest, RefusesWhatMakesNoZones) {
    const auto refused = [](std::uint64_t size, const ZonedOptions& options) {
        auto opened = open_zoned(open_memory({.geometry = {.size = size}}).value(), options);
        return opened ? std::string("opened") : opened.error().detail;
    };
    EXPECT_EQ(refused(4096, {.zone_size = kZone}),
              "the disk has 4096 bytes, less than one zone of 65536");
    EXPECT_NE(refused(8 * kZone, {.zone_size = 3}), "opened");
    EXPECT_NE(refused(8 * kZone, {.zone_size = kZone, .conventional = 8}), "opened");
    EXPECT_NE(refused(8 * kZone, {.zone_size = kZone, .capacity = 2 * kZone}), "opened");
    EXPECT_NE(refused(8 * kZone, {.zone_size = kZone, .capacity = 1000}), "opened");
    EXPECT_NE(refused(8 * kZone, {.zone_size = kZone, .open_max = 9}), "opened");
    for (const std::uint32_t chunk : {32768, 65536, 131072}) {
        inner = open_memory({.geometry = {.size = 8 * kZone, .chunk = chunk}}).value();
        EXPECT_EQ(open_zoned(inner, {.zone_size = kZone}).has_value(), chunk >= kZone) << chunk;
    }
    inner = open_memory({.geometry = {.size = 8 * kZone}}).value();
    open();
    EXPECT_EQ(open_zoned(backend, {.zone_size = kZone}).error().detail, "what is below is zoned");
    EXPECT_EQ(open_delay(backend, {}).error().code, EINVAL);
    EXPECT_EQ(open_stripe({backend, inner}, {}).error().code, EINVAL);
    EXPECT_EQ(open_fault(backend, {.volatile_cache = true}).error().code, EINVAL);
}

}  // namespace
}  // namespace ashlar
