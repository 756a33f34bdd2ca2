#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include <ashlar/backends.h>
#include <ashlar/log_replayer.h>

#include "conformance/backend_conformance.h"
#include "layers/log/reader.h"
#include "layers/log/test_log.h"
#include "layers/log/test_place.h"
#include "layers/members/test_member.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using layers::LogReader;
using layers::LogRecord;
using layers::TestLog;
using layers::TestPlace;
using test::TestMember;
using Kind = LogRecord::Kind;

constexpr Geometry kGeometry{.size = 1 << 17};
constexpr Capabilities kAll{.flush = true, .fua = true, .discard = true, .write_zeroes = true};

class LogTest : public testing::Test {
protected:
    void open() {
        backend = open_log(inner, {.path = path, .create = true}).value();
        session = backend->open_session(ring.io()).value();
    }
    Request request_of(Op op, std::uint64_t offset = 0, std::uint32_t length = 512) {
        Request request{.offset = offset, .length = length, .op = op};
        if (op == Op::flush) request.offset = request.length = 0;
        if (op == Op::write || op == Op::read) {
            request.buffer = Buffer::memory(data.data(), length);
        }
        return request;
    }
    // The errno, 0 for success.
    int serve(const Request& request) {
        return ring.run(session->serve(ring.io(), request)).error();
    }
    std::vector<LogRecord> records() const {
        LogReader reader = LogReader::open(path).value();
        std::vector<LogRecord> found;
        while (const auto record = reader.next().value()) found.push_back(*record);
        EXPECT_TRUE(reader.gaps().empty());
        return found;
    }

    test::RingRunner ring;
    TestPlace place;
    std::string path = place / "log";
    std::shared_ptr<TestMember> inner = std::make_shared<TestMember>(kGeometry, kAll);
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::vector<std::byte> data = std::vector<std::byte>(65536, std::byte{0x5a});
};

TEST_F(LogTest, Conforms) {
    int count = 0;
    EXPECT_EQ(test::check_conformance(
                  {.open =
                       [&] {
                           return open_log(
                               open_memory({.geometry = {.size = 1 << 20}}).value(),
                               {.path = place / std::to_string(++count), .create = true});
                       },
                   .operations = 500}),
              "");
}

TEST_F(LogTest, RecordsWhatChangesTheDiskAndFlushes) {
    open();
    Request write = request_of(Op::write, 1024, 2048);
    write.fua = true;
    write.queue = 3;
    EXPECT_EQ(serve(write), 0);
    EXPECT_EQ(serve(request_of(Op::read)), 0);
    EXPECT_EQ(serve(request_of(Op::discard, 4096, 8192)), 0);
    Request zeroes = request_of(Op::write_zeroes, 512, 512);
    zeroes.no_unmap = true;
    EXPECT_EQ(serve(zeroes), 0);
    EXPECT_EQ(serve(request_of(Op::flush)), 0);
    const auto found = records();
    ASSERT_EQ(found.size(), 8U);
    const std::array kinds = {Kind::write, Kind::discard, Kind::write_zeroes, Kind::flush};
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(found[2 * i].kind, kinds[i]);
        EXPECT_EQ(found[2 * i + 1].kind, Kind::completion);
        EXPECT_EQ(found[2 * i + 1].request, found[2 * i].place);
        EXPECT_EQ(found[2 * i + 1].error, 0);
    }
    EXPECT_TRUE(found[0].fua);
    EXPECT_EQ(found[0].queue, 3);
    EXPECT_EQ(found[0].range.offset, 1024U);
    EXPECT_EQ(found[0].range.length, 2048U);
    EXPECT_EQ(found[2].range.offset, 4096U);
    EXPECT_EQ(found[2].range.length, 8192U);
    EXPECT_TRUE(found[4].no_unmap);
    EXPECT_EQ(inner->requests.size(), 5U);
    EXPECT_TRUE(inner->requests[0].fua);
    EXPECT_EQ(inner->content[1024], std::byte{0x5a});
}

TEST_F(LogTest, ARecordIsThereBeforeTheDiskAndTheAnswerBeforeTheCaller) {
    open();
    inner->parks = true;
    const Request request = request_of(Op::write);
    const Task<> task = session->serve(ring.io(), request);
    EXPECT_TRUE(inner->parked.empty());
    ring.run_until([&] { return !inner->parked.empty(); });
    EXPECT_EQ(records().size(), 1U);
    inner->resume(0);
    EXPECT_FALSE(task.done());
    ring.run_until([&] { return task.done(); });
    EXPECT_EQ(records().size(), 2U);
}

TEST_F(LogTest, ErrorsAreRecordedAndAnswered) {
    open();
    inner->answer = [](const Request&) { return IoResult::from_errno(ENOSPC); };
    EXPECT_EQ(serve(request_of(Op::write)), ENOSPC);
    EXPECT_EQ(records().at(1).error, ENOSPC);
}

TEST_F(LogTest, ADiskWithoutACacheIsAskedForNoFlush) {
    inner->can = {};
    open();
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_TRUE(backend->capabilities().fua);
    EXPECT_EQ(serve(request_of(Op::flush)), 0);
    Request write = request_of(Op::write);
    write.fua = true;
    EXPECT_EQ(serve(write), 0);
    ASSERT_EQ(inner->requests.size(), 1U);
    EXPECT_FALSE(inner->requests[0].fua) << "it does not know of it";
    EXPECT_TRUE(records().at(2).fua);
}

TEST_F(LogTest, IsWhatItWrapsButSeesData) {
    inner->access = DataAccess::routes;
    inner->can.fua = false;
    open();
    EXPECT_EQ(backend->name(), "log");
    EXPECT_EQ(backend->geometry().size, kGeometry.size);
    EXPECT_EQ(backend->data_access(), DataAccess::sees);
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_FALSE(backend->capabilities().fua) << "the engine's flush is recorded instead";
    EXPECT_EQ(serve(request_of(Op::zone_reset)), EOPNOTSUPP);
    session->close();
    EXPECT_EQ(inner->closed, 1);
    inner->open_error = EMFILE;
    EXPECT_EQ(backend->open_session(ring.io()).error().code, EMFILE);
}

// ---- A log that cannot be written --------------------------------------------------------------

// A file that does not grow any more.
class FullLogTest : public LogTest {
protected:
    FullLogTest() {
        const TestLog log({.disk_size = kGeometry.size, .block = kGeometry.logical_block_size});
        EXPECT_EQ(write(file.get(), log.bytes.data(), log.bytes.size()), 64);
        path = "/proc/self/fd/" + std::to_string(file.get());
        backend = open_log(inner, {.path = path}).value();
        session = backend->open_session(ring.io()).value();
    }
    void fill() { ASSERT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_GROW), 0); }

    Fd file{memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
};

TEST_F(FullLogTest, WhatCannotBeRecordedDoesNotHappen) {
    EXPECT_EQ(serve(request_of(Op::write)), 0);
    fill();
    EXPECT_EQ(serve(request_of(Op::write, 512)), EPERM);
    EXPECT_EQ(serve(request_of(Op::flush)), EPERM);
    EXPECT_EQ(inner->requests.size(), 1U);
    EXPECT_EQ(inner->content[512], std::byte{0});
    EXPECT_EQ(serve(request_of(Op::read)), 0) << "reads need no record";
}

TEST_F(FullLogTest, AnAnswerThatCannotBeRecordedIsAnError) {
    inner->parks = true;
    const Request request = request_of(Op::flush);
    const Task<> task = session->serve(ring.io(), request);
    ring.run_until([&] { return !inner->parked.empty(); });
    fill();
    inner->resume(0);
    ring.run_until([&] { return task.done(); });
    EXPECT_EQ(task.result().error(), EPERM);
}

// ---- The file ----------------------------------------------------------------------------------

TEST_F(LogTest, GoesOnWhereItEnded) {
    open();
    EXPECT_EQ(serve(request_of(Op::write)), 0);
    const auto size = std::filesystem::file_size(path);
    session.reset();
    backend.reset();
    // What a server that was killed may leave.
    std::filesystem::resize_file(path, size + 7);
    backend = open_log(inner, {.path = path}).value();
    session = backend->open_session(ring.io()).value();
    EXPECT_EQ(serve(request_of(Op::flush)), 0);
    LogReader reader = LogReader::open(path).value();
    std::vector<std::uint64_t> places;
    while (const auto record = reader.next().value()) places.push_back(record->place);
    EXPECT_EQ(places, (std::vector<std::uint64_t>{64, 640, 768, 832}));
    ASSERT_EQ(reader.gaps().size(), 1U);
    EXPECT_EQ(reader.gaps()[0].offset, size);
}

TEST_F(LogTest, Refusals) {
    const auto refused = [&](const LogOptions& options) {
        const auto opened = open_log(inner, options);
        return opened ? Error{} : opened.error();
    };
    EXPECT_EQ(refused({.path = path}).code, ENOENT);
    EXPECT_EQ(refused({.path = path}).hint, "add create to make it");
    EXPECT_EQ(refused({.path = place / "no/log", .create = true}).code, ENOENT);
    open();
    EXPECT_EQ(refused({.path = path, .create = true}).code, EEXIST);
    EXPECT_EQ(refused({.path = path}).code, EBUSY);
    EXPECT_EQ(refused({.path = path}).detail, "another server writes it");
    session.reset();
    backend.reset();
    const auto other =
        open_log(open_memory({.geometry = {.size = 1 << 20}}).value(), {.path = path});
    EXPECT_EQ(other.error().code, EINVAL);
    EXPECT_EQ(other.error().detail,
              "it is of a disk of 131072 bytes in blocks of 512; this one has 1048576 in blocks "
              "of 512");
    EXPECT_EQ(refused({.path = place.file("text", std::string(100, 'x'))}).detail,
              "it is no log of the log layer");
}

// ---- Several sessions --------------------------------------------------------------------------

TEST_F(LogTest, WhatManySessionsDidIsReplayedAsItWas) {
    constexpr std::uint64_t size = 1 << 20;
    constexpr std::uint64_t part = size / 4;
    const auto memory = open_memory({.geometry = {.size = size}}).value();
    backend = open_log(memory, {.path = path, .create = true}).value();
    const auto work = [&](unsigned number) {
        test::RingRunner own;
        const auto opened = backend->open_session(own.io()).value();
        std::mt19937 random(number);
        std::vector<std::byte> content(8192);
        for (int i = 0; i < 300; ++i) {
            for (std::byte& byte : content) byte = static_cast<std::byte>(random());
            const auto length = static_cast<std::uint32_t>(512 * (1 + random() % 16));
            Request request{.offset = number * part + random() % (part / 512 - 16) * 512,
                            .length = length,
                            .op = Op::write,
                            .buffer = Buffer::memory(content.data(), length)};
            if (i % 10 == 0) request = {.op = Op::flush};
            if (i % 10 == 5) {
                request.op = Op::discard;
                request.buffer = {};
            }
            EXPECT_TRUE(own.run(opened->serve(own.io(), request)).ok());
        }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();

    const std::string image = place / "image";
    LogReplayer replayer = LogReplayer::open({.log = path, .image = image}).value();
    int boundaries = 0;
    while (replayer.advance().value()) ++boundaries;
    EXPECT_EQ(boundaries, 1 + 4 * 30) << "the start, and each flush";
    EXPECT_TRUE(replayer.gaps().empty());
    ASSERT_TRUE(replayer.complete());
    std::vector<std::byte> held(size);
    const Request read{.length = size,
                       .op = Op::read,
                       .buffer = Buffer::memory(held.data(), static_cast<std::uint32_t>(size))};
    session = memory->open_session(ring.io()).value();
    EXPECT_EQ(serve(read), 0);
    const std::string rebuilt = TestPlace::content(image);
    ASSERT_EQ(rebuilt.size(), size);
    EXPECT_EQ(std::memcmp(rebuilt.data(), held.data(), size), 0);
}

}  // namespace
}  // namespace ashlar
