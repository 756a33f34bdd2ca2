// The faults. What volatile_cache does is tested in cached_session_test.cc.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "conformance/backend_conformance.h"
#include "layers/members/test_member.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;
using test::TestMember;
using Kind = Fault::Kind;

constexpr std::uint32_t kBlock = 512;
constexpr Geometry kGeometry{.size = 1 << 17};
constexpr Capabilities kAll{.flush = true, .fua = true, .discard = true, .write_zeroes = true};
constexpr std::array kOps = {Op::read, Op::write, Op::flush, Op::discard, Op::write_zeroes};

TEST(Fault, WithoutFaultsItConforms) {
    EXPECT_EQ(test::check_conformance(
                  {.open =
                       [] {
                           return open_fault(open_memory({.geometry = {.size = 1 << 20}}).value(),
                                             {.faults = {{.rate = 0}, {.after = 1h}}});
                       },
                   .operations = 500}),
              "");
}

class FaultTest : public testing::Test {
protected:
    void open(const FaultOptions& options) {
        backend = open_fault(inner, options).value();
        session = backend->open_session(ring.io()).value();
        inner->requests.clear();
    }
    static Request request_of(Op op, std::uint64_t offset = 0, std::uint32_t length = kBlock) {
        Request request{.offset = offset, .length = length, .op = op};
        if (op == Op::flush) request.offset = request.length = 0;
        return request;
    }
    Request write_of(std::uint64_t offset, std::uint32_t length) {
        Request request = request_of(Op::write, offset, length);
        request.buffer = Buffer::memory(data.data(), length);
        return request;
    }
    // The errno, 0 for success.
    int serve(const Request& request) {
        const Task<> task = session->serve(ring.io(), request);
        EXPECT_TRUE(task.done());
        return task.result().error();
    }
    // Which of so many reads fail.
    std::vector<bool> pattern(int count) {
        std::vector<bool> failed;
        for (int i = 0; i < count; ++i) failed.push_back(serve(request_of(Op::read)) != 0);
        return failed;
    }

    test::RingRunner ring;
    std::shared_ptr<TestMember> inner = std::make_shared<TestMember>(kGeometry, kAll);
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::vector<std::byte> data = std::vector<std::byte>(65536, std::byte{0x5a});
};

// ---- Which requests ----------------------------------------------------------------------------

TEST_F(FaultTest, WhatNoFaultStrikesGoesOnAsItIs) {
    open({});
    inner->parks = true;
    const Request request = request_of(Op::read);
    const Task<> task = session->serve(ring.io(), request);
    ASSERT_EQ(inner->parked.size(), 1U);
    EXPECT_EQ(inner->parked[0].request, &request);
    inner->resume(0);
}

TEST_F(FaultTest, AnErrorDoesNotReachTheDisk) {
    open({.faults = {{.kind = Kind::error, .code = ENOSPC}}});
    for (const Op op : kOps) EXPECT_EQ(serve(request_of(op)), ENOSPC) << name(op);
    EXPECT_TRUE(inner->requests.empty());
    EXPECT_EQ(serve(request_of(Op::zone_open)), 0) << "no fault is for zones";
}

TEST_F(FaultTest, OnlyTheOperationsThatWereNamed) {
    open({.faults = {{.kind = Kind::error, .operations = {Op::flush, Op::discard}}}});
    for (const Op op : kOps) {
        const bool struck = op == Op::flush || op == Op::discard;
        EXPECT_EQ(serve(request_of(op)), struck ? EIO : 0) << name(op);
    }
}

TEST_F(FaultTest, OnlyRequestsThatTouchTheRange) {
    open({.faults = {{.kind = Kind::error, .range = Range{8192, 4096}}}});
    const auto read = [&](std::uint64_t offset, std::uint32_t length) {
        return serve(request_of(Op::read, offset, length));
    };
    EXPECT_EQ(read(0, 8192), 0);
    EXPECT_EQ(read(0, 8192 + kBlock), EIO);
    EXPECT_EQ(read(8192, kBlock), EIO);
    EXPECT_EQ(read(12288 - kBlock, 4096), EIO);
    EXPECT_EQ(read(12288, 4096), 0);
    EXPECT_EQ(read(0, 65536), EIO);
    EXPECT_EQ(serve(request_of(Op::flush)), 0) << "a flush touches nothing";
}

TEST_F(FaultTest, TheFirstThatStrikesCounts) {
    open({.faults = {{.kind = Kind::error, .code = ENOSPC, .operations = {Op::write}},
                     {.kind = Kind::error, .code = ENOMEM, .rate = 0},
                     {.kind = Kind::error, .code = EIO}}});
    EXPECT_EQ(serve(write_of(0, kBlock)), ENOSPC);
    EXPECT_EQ(serve(request_of(Op::read)), EIO);
}

TEST_F(FaultTest, TheRateIsThatOfTheRequests) {
    open({.faults = {{.rate = 0.1}}, .seed = 5});
    const auto failed = pattern(20'000);
    EXPECT_NEAR(static_cast<double>(std::ranges::count(failed, true)), 2000, 150);
    // Struck or not says nothing of the next one.
    int twice = 0;
    for (std::size_t i = 1; i < failed.size(); ++i) twice += failed[i] && failed[i - 1];
    EXPECT_NEAR(twice, 200, 60);
}

TEST_F(FaultTest, TheSeedDecidesWhich) {
    const FaultOptions options{.faults = {{.rate = 0.5}}, .seed = 3};
    open(options);
    const auto first = pattern(100);
    session = backend->open_session(ring.io()).value();
    EXPECT_NE(pattern(100), first) << "sessions of one disk differ";
    open(options);
    EXPECT_EQ(pattern(100), first);
    open({.faults = {{.rate = 0.5}}, .seed = 8});
    EXPECT_NE(pattern(100), first);
}

TEST_F(FaultTest, NotBeforeItsTime) {
    open({.faults = {{.after = 1h}}});
    EXPECT_EQ(serve(request_of(Op::read)), 0);
    open({.faults = {{.after = 5ms}}});
    const auto opened = std::chrono::steady_clock::now();
    while (serve(request_of(Op::read)) == 0) {
        ASSERT_LT(std::chrono::steady_clock::now() - opened, 10s);
    }
    EXPECT_EQ(serve(request_of(Op::read)), EIO) << "and from then on";
}

// ---- What happens to them ----------------------------------------------------------------------

TEST_F(FaultTest, ALostWriteIsAnsweredWithSuccess) {
    open({.faults = {{.kind = Kind::lost}}});
    for (const Op op : {Op::write, Op::discard, Op::write_zeroes}) {
        EXPECT_EQ(serve(request_of(op)), 0);
        EXPECT_TRUE(inner->requests.empty()) << name(op);
    }
    EXPECT_EQ(serve(request_of(Op::read)), 0);
    EXPECT_EQ(serve(request_of(Op::flush)), 0);
    EXPECT_EQ(inner->requests.size(), 2U);
}

TEST_F(FaultTest, ATornWriteLeavesSomeWholeBlocksAtItsStart) {
    open({.faults = {{.kind = Kind::torn, .code = EREMOTEIO}}});
    constexpr std::uint32_t kBlocks = 8;
    std::set<std::uint64_t> kept;
    for (int i = 0; i < 200; ++i) {
        std::ranges::fill(inner->content, std::byte{0});
        EXPECT_EQ(serve(write_of(4096, kBlocks * kBlock)), EREMOTEIO);
        const auto begin = inner->content.begin();
        const auto bytes = std::count(begin, begin + 65536, std::byte{0x5a});
        EXPECT_EQ(std::count(begin + 4096, begin + 4096 + bytes, std::byte{0x5a}), bytes);
        EXPECT_EQ(bytes % kBlock, 0);
        kept.insert(static_cast<std::uint64_t>(bytes) / kBlock);
    }
    EXPECT_EQ(kept, (std::set<std::uint64_t>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(FaultTest, ABlockIsNotTorn) {
    inner = std::make_shared<TestMember>(Geometry{.size = 1 << 17, .logical_block_size = 4096});
    open({.faults = {{.kind = Kind::torn}}});
    EXPECT_EQ(serve(write_of(0, 4096)), 0);
    EXPECT_EQ(std::ranges::count(inner->content, std::byte{0x5a}), 4096);
    EXPECT_EQ(serve(write_of(0, 8192)), EIO);
    EXPECT_EQ(inner->requests.at(1).length, 4096U);
}

TEST_F(FaultTest, ATornWriteEndsWhenItsPartHas) {
    open({.faults = {{.kind = Kind::torn, .operations = {Op::write}}}});
    inner->parks = true;
    const Request request = write_of(0, 2 * kBlock);
    const Task<> task = session->serve(ring.io(), request);
    EXPECT_FALSE(task.done());
    inner->resume(0);
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().error(), EIO);
    inner->parks = false;
    inner->answer = [](const Request&) { return IoResult::from_errno(ENOSPC); };
    EXPECT_EQ(serve(request), ENOSPC) << "an error of the disk's own comes first";
}

TEST_F(FaultTest, AfterAPowerCutEverythingFailsInAllSessions) {
    open({.faults = {{.kind = Kind::power_cut, .code = ENODEV, .operations = {Op::discard}}}});
    const auto other = backend->open_session(ring.io()).value();
    for (const Op op : {Op::read, Op::write, Op::flush}) EXPECT_EQ(serve(request_of(op)), 0);
    EXPECT_EQ(serve(request_of(Op::discard)), ENODEV);
    inner->requests.clear();
    for (const Op op : kOps) {
        EXPECT_EQ(serve(request_of(op)), ENODEV);
        const Request request = request_of(op);
        EXPECT_EQ(other->serve(ring.io(), request).result().error(), ENODEV);
    }
    session = backend->open_session(ring.io()).value();
    EXPECT_EQ(serve(request_of(Op::read)), ENODEV) << "also in later ones";
    EXPECT_TRUE(inner->requests.empty());
}

TEST_F(FaultTest, APowerCutHappensOnce) {
    open({.faults = {{.kind = Kind::power_cut, .code = ENODEV, .operations = {Op::read}},
                     {.kind = Kind::power_cut, .code = EIO}}});
    EXPECT_EQ(serve(request_of(Op::read)), ENODEV);
    EXPECT_EQ(serve(request_of(Op::write)), ENODEV) << "of the first one's code";
}

// ---- The rest ----------------------------------------------------------------------------------

TEST_F(FaultTest, IsWhatItWrapsButNeverHoldsData) {
    open({});
    EXPECT_EQ(backend->name(), "fault");
    EXPECT_EQ(backend->geometry().size, kGeometry.size);
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
    EXPECT_EQ(backend->open_session(ring.io()).error().code, EMFILE);
}

TEST_F(FaultTest, RegisteredBuffersAreTornToo) {
    inner->access = DataAccess::routes;
    open({.faults = {{.kind = Kind::torn}}});
    const Request request{
        .length = 1024, .op = Op::write, .buffer = Buffer::registered(3, 512, 1024)};
    EXPECT_EQ(serve(request), EIO);
    const Buffer part = inner->requests.at(0).buffer;
    EXPECT_EQ(part.index(), 3);
    EXPECT_EQ(part.address(), 512U);
    EXPECT_EQ(part.length(), 512U);
}

TEST_F(FaultTest, RefusesWhatIsNoFault) {
    const auto refused = [&](const Fault& fault) {
        const auto opened = open_fault(inner, {.faults = {{}, fault}});
        EXPECT_EQ(opened ? 0 : opened.error().code, EINVAL);
        return opened ? std::string() : opened.error().detail;
    };
    EXPECT_EQ(refused({.code = 0}), "fault 1: code is 0; allowed are errno values, 1 to 4095");
    EXPECT_EQ(refused({.code = -5}), "fault 1: code is -5; allowed are errno values, 1 to 4095");
    EXPECT_EQ(refused({.kind = Kind::torn, .operations = {Op::write, Op::read}}),
              "fault 1: operation is read; allowed for this kind: write");
    EXPECT_EQ(
        refused({.kind = Kind::lost, .operations = {Op::flush}}),
        "fault 1: operation is flush; allowed for this kind: write, discard and write_zeroes");
    EXPECT_EQ(refused({.operations = {Op::zone_open}}),
              "fault 1: operation is zone_open; allowed for this kind: read, write, flush, discard "
              "and write_zeroes");
    EXPECT_EQ(refused({.range = Range{4096, 0}}),
              "fault 1: range is 0 bytes at 4096; it must be some of the disk's 131072 bytes");
    EXPECT_EQ(refused({.range = Range{512, 1 << 17}}),
              "fault 1: range is 131072 bytes at 512; it must be some of the disk's 131072 bytes");
    EXPECT_EQ(refused({.rate = 1.5}), "fault 1: rate is 1.500000; allowed are 0 to 1");
    EXPECT_EQ(refused({.rate = -0.5}), "fault 1: rate is -0.500000; allowed are 0 to 1");
    EXPECT_EQ(refused({.rate = std::nan("")}), "fault 1: rate is nan; allowed are 0 to 1");
    EXPECT_EQ(refused({.after = -1ns}), "fault 1: after is -1 ns; it must be 0 or more");
}

}  // namespace
}  // namespace ashlar
