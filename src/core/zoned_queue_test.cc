// Zone operations, metadata and shared memory: what a queue does with them beyond plain disks.
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernel/codec.h"
#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

constexpr std::uint64_t kZone = 1 << 20;

std::vector<std::byte> filled(std::size_t length, int value) {
    return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

class ZonedQueueTest : public test::QueueFixture {
protected:
    ZonedQueueTest() {
        config.data_path = DataPath::user_copy;
        config.zone_size = kZone;
        config.size = 16 * kZone;
    }
};

TEST_F(ZonedQueueTest, AReportGoesToTheKernelInItsForm) {
    auto& session = start();
    session.answer = [](const Request& request) {
        EXPECT_EQ(request.op, Op::report_zones);
        EXPECT_EQ(request.offset, 2 * kZone);
        const auto zones = request.zones();
        EXPECT_EQ(zones.size(), 4U);
        zones[0] = {.start = 2 * kZone,
                    .length = kZone,
                    .write_pointer = 2 * kZone + 4096,
                    .capacity = kZone};
        zones[1] = {
            .start = 3 * kZone, .length = kZone, .write_pointer = 3 * kZone, .capacity = kZone};
        zones[2].length = 77;  // not part of the answer
        return IoResult::bytes(2);
    };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_report_zones, 2 * kZone / 512, 4)), 4 * 64);
    const auto report = kernel.data(0, 0, 4 * 64);
    std::array<abi::Zone, 4> zones;
    std::memcpy(zones.data(), report.data(), sizeof zones);
    EXPECT_EQ(zones[0].start, 2 * kZone / 512);
    EXPECT_EQ(zones[0].wp, 2 * kZone / 512 + 8);
    EXPECT_EQ(zones[1].start, 3 * kZone / 512);
    EXPECT_EQ(zones[2].len, 0U);
    EXPECT_EQ(zones[3].len, 0U);
}

TEST_F(ZonedQueueTest, AReportOfNothingIsAnError) {
    auto& session = start();
    session.answer = [](const Request&) { return IoResult{}; };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_report_zones, 0, 4)), -EIO)
        << "the driver would ask for ever";
    session.answer = [](const Request&) { return IoResult::bytes(5); };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_report_zones, 0, 4)), -EIO);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_report_zones, 0, kIoMax / 64 + 1)), -EINVAL);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_report_zones, 17 * kZone / 512, 4)), -EIO);
}

TEST_F(ZonedQueueTest, AnAppendTellsWhere) {
    auto& session = start();
    kernel.put_data(0, 0, filled(4096, 7));
    session.answer = [](const Request& request) {
        EXPECT_EQ(request.op, Op::zone_append);
        EXPECT_EQ(request.bytes()[4095], std::byte{7});
        return IoResult::bytes(request.offset + 8192);
    };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_zone_append, kZone / 512, 8)), 4096);
    EXPECT_EQ(commit_of(0).io.zone_append_lba, kZone / 512 + 16);
    session.answer = [](const Request&) { return IoResult{}; };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0);
    EXPECT_EQ(commit_of(0).io.zone_append_lba, 0U) << "of nothing else";
}

TEST_F(ZonedQueueTest, AnAppendWithFuaTellsWhereAfterItsFlush) {
    config.capabilities.fua = false;
    auto& session = start();
    kernel.put_data(0, 0, filled(4096, 7));
    session.answer = [](const Request& request) {
        return request.op == Op::flush ? IoResult{} : IoResult::bytes(request.offset);
    };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_zone_append | abi::io_f_fua, kZone / 512, 8)), 4096);
    EXPECT_EQ(commit_of(0).io.zone_append_lba, kZone / 512);
    ASSERT_EQ(session.requests.size(), 2U);
    EXPECT_EQ(session.requests[1].op, Op::flush);
}

TEST_F(ZonedQueueTest, AnAppendOutsideOfItsZoneIsAnError) {
    auto& session = start();
    kernel.put_data(0, 0, filled(4096, 7));
    for (const std::uint64_t place : {std::uint64_t{0}, kZone - 512, 2 * kZone - 2048, 5 * kZone}) {
        session.answer = [&](const Request&) { return IoResult::bytes(place); };
        EXPECT_EQ(serve(make_descriptor(abi::io_op_zone_append, kZone / 512, 8)), -EIO) << place;
        EXPECT_EQ(commit_of(0).io.zone_append_lba, 0U);
    }
}

TEST_F(ZonedQueueTest, OtherOperationsReachTheSession) {
    auto& session = start();
    for (const auto op : {abi::io_op_zone_open, abi::io_op_zone_close, abi::io_op_zone_finish,
                          abi::io_op_zone_reset}) {
        EXPECT_EQ(serve(make_descriptor(op, kZone / 512, kZone / 512)), 0) << int{op};
        EXPECT_EQ(session.requests.back().offset, kZone);
    }
    EXPECT_EQ(serve(make_descriptor(abi::io_op_zone_reset_all, 0, 0)), 0);
    config.capabilities.read_only = true;
}

TEST_F(ZonedQueueTest, NothingChangesAReadOnlyDisk) {
    config.capabilities.read_only = true;
    start();
    for (const auto op : {abi::io_op_zone_open, abi::io_op_zone_append, abi::io_op_zone_reset,
                          abi::io_op_zone_reset_all}) {
        EXPECT_EQ(serve(make_descriptor(op, 0, 8)), -EROFS) << int{op};
    }
}

// ---- Metadata ----------------------------------------------------------------------------------

class MetadataQueueTest : public test::QueueFixture {
protected:
    MetadataQueueTest() {
        config.data_path = DataPath::user_copy;
        config.metadata = {.size = 8, .interval = 512, .checksum = Checksum::crc16_t10dif};
    }
    static off_t place(std::uint16_t tag) {
        return static_cast<off_t>(kernel::user_copy_offset(0, tag, 0, true));
    }
    int device() { return kernel.device()->fd.get(); }
};

TEST_F(MetadataQueueTest, ItComesWithAWrite) {
    auto& session = start();
    kernel.put_data(0, 1, filled(4096, 3));
    const auto metadata = filled(64, 9);
    ASSERT_EQ(pwrite(device(), metadata.data(), 64, place(1)), 64);
    session.answer = [&](const Request& request) {
        EXPECT_EQ(request.metadata.length(), 64U);
        EXPECT_EQ(std::memcmp(request.metadata.data(), metadata.data(), 64), 0);
        EXPECT_EQ(request.bytes()[0], std::byte{3});
        return IoResult{};
    };
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_write | abi::io_f_integrity, 0, 8)));
    EXPECT_EQ(committed(1), 4096);
    EXPECT_EQ(session.requests.size(), 1U);
}

TEST_F(MetadataQueueTest, ItGoesWithARead) {
    auto& session = start();
    session.answer = [](const Request& request) {
        std::memset(request.metadata.data(), 5, request.metadata.length());
        return IoResult{};
    };
    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_read | abi::io_f_integrity, 0, 2)));
    EXPECT_EQ(committed(2), 1024);
    auto metadata = filled(16, 0);
    ASSERT_EQ(pread(device(), metadata.data(), 16, place(2)), 16);
    EXPECT_EQ(metadata, filled(16, 5));
}

TEST_F(MetadataQueueTest, ARequestMayHaveNone) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read | abi::io_f_integrity, 0, 2)), 1024)
        << "the tag's last request had some";
    session.answer = [](const Request& request) {
        // Only the one at 1024 has some.
        EXPECT_EQ(request.metadata.length(), request.offset == 1024 ? 16U : 0U);
        return IoResult{};
    };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 2)), 1024);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read | abi::io_f_integrity, 2, 2)), 1024);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0) << "nor has what carries no data";
}

// ---- Shared memory -----------------------------------------------------------------------------

class SharedMemoryQueueTest : public test::QueueFixture,
                              public testing::WithParamInterface<DataPath> {
protected:
    SharedMemoryQueueTest() {
        config.data_path = GetParam();
        config.access = config.zero_copy() ? DataAccess::routes : DataAccess::sees;
        config.shared = areas;
    }
    static abi::IoDesc shared(std::uint8_t op, std::uint32_t sectors, std::uint16_t index,
                              std::uint32_t offset) {
        auto descriptor = make_descriptor(op | abi::io_f_shmem_zc, 0, sectors);
        descriptor.addr = kernel::encode_shmem_address({.index = index, .offset = offset});
        return descriptor;
    }
    std::vector<std::byte> first = filled(8192, 1);
    std::vector<std::byte> second = filled(16384, 2);
    std::array<std::span<std::byte>, 2> areas{first, second};
};

TEST_P(SharedMemoryQueueTest, DataStaysWhereItIs) {
    auto& session = start();
    session.answer = [&](const Request& request) {
        EXPECT_EQ(request.buffer.data(), second.data() + 4096);
        EXPECT_EQ(request.buffer.length(), 8192U);
        return IoResult{};
    };
    EXPECT_EQ(serve(shared(abi::io_op_write, 16, 1, 4096)), 8192);
    EXPECT_EQ(serve(shared(abi::io_op_read, 16, 1, 4096)), 8192);
    EXPECT_EQ(session.requests.size(), 2U);
}

TEST_P(SharedMemoryQueueTest, TheTagsNextReadGoesToItsOwnPlace) {
    auto& session = start();
    session.answer = [](const Request& request) {
        if (request.buffer.is_memory()) std::ranges::fill(request.bytes(), std::byte{7});
        return IoResult{};
    };
    EXPECT_EQ(serve(shared(abi::io_op_read, 8, 0, 0)), 4096);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
    if (config.data_path != DataPath::user_copy) return;
    auto copied = filled(4096, 0);
    const auto from = static_cast<off_t>(kernel::user_copy_offset(0, 0, 0));
    ASSERT_EQ(pread(kernel.device()->fd.get(), copied.data(), 4096, from), 4096);
    EXPECT_EQ(copied, filled(4096, 7));
}

TEST_P(SharedMemoryQueueTest, NothingOutsideIsTouched) {
    auto& session = start();
    EXPECT_EQ(serve(shared(abi::io_op_write, 16, 0, 4096)), -EFAULT);
    EXPECT_EQ(serve(shared(abi::io_op_write, 17, 0, 0)), -EFAULT);
    EXPECT_EQ(serve(shared(abi::io_op_read, 1, 2, 0)), -EFAULT);
    EXPECT_EQ(serve(shared(abi::io_op_read, 1, 0, 0xffff'fe00)), -EFAULT);
    EXPECT_TRUE(session.requests.empty());
}

INSTANTIATE_TEST_SUITE_P(Paths, SharedMemoryQueueTest,
                         testing::Values(DataPath::copy, DataPath::user_copy, DataPath::zero_copy));

}  // namespace
}  // namespace ashlar
