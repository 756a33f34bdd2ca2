#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "backends/file/test_directory.h"
#include "conformance/backend_conformance.h"
#include "support/failed_sync.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSize = 1 << 20;
constexpr Metadata kFormat{.size = 8, .checksum = Checksum::crc16_t10dif};

std::shared_ptr<Backend> memory() { return open_memory({.geometry = {.size = kSize}}).value(); }

TEST(MetadataLayer, Conforms) {
    EXPECT_EQ(test::check_conformance(
                  {.open = [] { return open_metadata(memory(), {.format = kFormat}); },
                   .operations = 300}),
              "");
}

class MetadataTest : public testing::Test {
protected:
    void open(const MetadataOptions& options) {
        session.reset();
        backend.reset();
        auto opened = open_metadata(inner, options);
        ASSERT_TRUE(opened) << opened.error().message();
        backend = *opened;
        session = backend->open_session(ring.io()).value();
    }
    // value: of the metadata; none: the request has none.
    IoResult run(Op op, std::uint64_t offset, std::uint64_t length, std::optional<int> value) {
        data.assign(length, std::byte{7});
        metadata.assign(length / 512 * 8, static_cast<std::byte>(value.value_or(0)));
        request = {.offset = offset, .length = length, .op = op};
        if (op == Op::read || op == Op::write) {
            request.buffer = Buffer::memory(data.data(), static_cast<std::uint32_t>(length));
        }
        if (value) {
            request.metadata =
                Buffer::memory(metadata.data(), static_cast<std::uint32_t>(metadata.size()));
        }
        return ring.run(session->serve(ring.io(), request));
    }
    // What of it the blocks of a range have.
    std::vector<std::byte> read(std::uint64_t offset, std::uint64_t length) {
        EXPECT_TRUE(run(Op::read, offset, length, 0).ok());
        return metadata;
    }
    static std::vector<std::byte> all(std::size_t blocks, int value) {
        return std::vector<std::byte>(blocks * 8, static_cast<std::byte>(value));
    }
    test::RingRunner ring;
    file::TestDirectory directory;
    std::shared_ptr<Backend> inner = memory();
    std::shared_ptr<Backend> backend;
    std::unique_ptr<Session> session;
    std::vector<std::byte> data;
    std::vector<std::byte> metadata;
    Request request;
};

TEST_F(MetadataTest, IsKeptWithItsBlocks) {
    open({.format = kFormat});
    EXPECT_EQ(backend->geometry().metadata.interval, 512U) << "the logical block";
    EXPECT_EQ(read(0, 4096), all(8, 0xff)) << "never written: nothing to check";
    EXPECT_TRUE(run(Op::write, 4096, 4096, 3).ok());
    EXPECT_TRUE(run(Op::write, 8192, 512, 4).ok());
    EXPECT_EQ(read(4096, 4096), all(8, 3));
    EXPECT_EQ(read(8192, 512), all(1, 4));
    EXPECT_EQ(read(8704, 512), all(1, 0xff));
    EXPECT_EQ(data[0], std::byte{0}) << "the data is the disk's";
}

TEST_F(MetadataTest, ChangesWithoutItLeaveNothingToCheck) {
    open({.format = kFormat});
    EXPECT_TRUE(run(Op::write, 0, 16384, 3).ok());
    EXPECT_TRUE(run(Op::write, 0, 4096, std::nullopt).ok());
    EXPECT_TRUE(run(Op::discard, 4096, 4096, std::nullopt).ok());
    EXPECT_TRUE(run(Op::write_zeroes, 8192, 4096, std::nullopt).ok());
    EXPECT_EQ(read(0, 12288), all(24, 0xff));
    EXPECT_EQ(read(12288, 4096), all(8, 3));
}

TEST_F(MetadataTest, StaysInItsFile) {
    const std::string path = directory / "meta";
    open({.format = kFormat, .path = path, .create = true});
    EXPECT_TRUE(backend->capabilities().flush);
    EXPECT_TRUE(run(Op::write, 0, 4096, 3).ok());
    EXPECT_TRUE(run(Op::flush, 0, 0, std::nullopt).ok());
    EXPECT_EQ(open_metadata(inner, {.format = kFormat, .path = path}).error().code, EBUSY);
    open({.format = kFormat, .path = path});
    EXPECT_EQ(read(0, 4096), all(8, 3));
}

TEST_F(MetadataTest, AFailedSyncIsNotForgotten) {
    const auto disk =
        open_metadata(inner, {.format = kFormat, .path = directory / "meta", .create = true});
    test::FailedSync().check(disk.value());
}

// A request for the first block, whose data and metadata are all of one value.
struct FirstBlock {
    explicit FirstBlock(Op op, int value) {
        std::ranges::fill(data, static_cast<std::byte>(value));
        std::ranges::fill(metadata, static_cast<std::byte>(value));
        request = {.length = 512,
                   .op = op,
                   .buffer = Buffer::memory(data.data(), 512),
                   .metadata = Buffer::memory(metadata.data(), 8)};
    }
    std::vector<std::byte> data = std::vector<std::byte>(512);
    std::vector<std::byte> metadata = std::vector<std::byte>(8);
    Request request{};
};

TEST_F(MetadataTest, ABlockIsReadWithWhatWasWrittenWithIt) {
    inner = open_delay(memory(), {.read = {.mean = 50ms}}).value();
    open({.format = kFormat});
    const FirstBlock first(Op::write, 1);
    ASSERT_TRUE(ring.run(session->serve(ring.io(), first.request)).ok());
    const FirstBlock read(Op::read, 0);
    const Task<> reading = session->serve(ring.io(), read.request);
    const FirstBlock second(Op::write, 2);
    ASSERT_TRUE(ring.run(session->serve(ring.io(), second.request)).ok());
    EXPECT_TRUE(reading.done()) << "the write had to wait";
    EXPECT_TRUE(reading.result().ok());
    EXPECT_EQ(read.data, std::vector<std::byte>(512, std::byte{1}));
    EXPECT_EQ(read.metadata, std::vector<std::byte>(8, std::byte{1}));
}

TEST_F(MetadataTest, OfTwoWritesOneWinsAsAWhole) {
    const Latency some{.shape = Latency::Shape::uniform, .mean = 2ms, .spread = 2ms};
    inner = open_delay(memory(), {.write = some}).value();
    open({.format = kFormat});
    const auto other = backend->open_session(ring.io()).value();
    for (int i = 0; i < 20; ++i) {
        const FirstBlock one(Op::write, 1);
        const FirstBlock two(Op::write, 2);
        const Task<> writes[] = {session->serve(ring.io(), one.request),
                                 other->serve(ring.io(), two.request)};
        ring.run_until([&] { return writes[0].done() && writes[1].done(); });
        const FirstBlock read(Op::read, 0);
        ASSERT_TRUE(ring.run(session->serve(ring.io(), read.request)).ok());
        ASSERT_EQ(read.data[0], read.metadata[0]);
    }
}

TEST_F(MetadataTest, WhoeverWaitsIsCancelled) {
    inner = open_delay(memory(), {.read = {.mean = 1h}}).value();
    open({.format = kFormat});
    const FirstBlock read(Op::read, 0);
    const FirstBlock write(Op::write, 1);
    const Task<> tasks[] = {session->serve(ring.io(), read.request),
                            session->serve(ring.io(), write.request)};
    EXPECT_FALSE(tasks[1].done());
    ring.cancel();
    ring.run_until([&] { return tasks[0].done() && tasks[1].done(); });
    EXPECT_EQ(tasks[0].result().error(), ECANCELED);
    EXPECT_EQ(tasks[1].result().error(), ECANCELED);
    test::RingRunner another;
    EXPECT_TRUE(another.run(session->serve(another.io(), write.request)).ok());
}

TEST_F(MetadataTest, RefusesWhatDoesNotFit) {
    const std::string path = directory / "meta";
    EXPECT_EQ(open_metadata(inner, {.format = kFormat, .path = path}).error().code, ENOENT);
    EXPECT_EQ(open_metadata(inner, {.format = {.size = 0}}).error().code, EINVAL);
    EXPECT_EQ(open_metadata(inner, {.format = {.size = 8, .checksum = Checksum::crc64_nvme}})
                  .error()
                  .code,
              EINVAL);
    std::filesystem::resize_file(directory.text("small", "x"), 100);
    EXPECT_EQ(open_metadata(inner, {.format = kFormat, .path = directory / "small"}).error().code,
              EINVAL);
    const auto zoned = open_zoned(inner, {.zone_size = 65536}).value();
    EXPECT_EQ(open_metadata(zoned, {.format = kFormat}).error().detail, "what is below is zoned");
}

TEST_F(MetadataTest, AFailureBelowIsTheAnswer) {
    inner = open_fault(memory(), {.faults = {{.code = ENOSPC, .operations = {Op::write}}}}).value();
    open({.format = kFormat});
    EXPECT_EQ(run(Op::write, 0, 4096, 3).error(), ENOSPC);
}

}  // namespace
}  // namespace ashlar
