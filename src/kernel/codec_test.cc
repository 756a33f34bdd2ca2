#include "kernel/codec.h"

#include <array>
#include <limits>

#include <gtest/gtest.h>

namespace ashlar::kernel {
namespace {

abi::IoDesc desc_of(std::uint32_t op_flags, std::uint64_t sector, std::uint32_t sectors) {
    abi::IoDesc desc{};
    desc.op_flags = op_flags;
    desc.start_sector = sector;
    desc.nr_sectors = sectors;
    desc.addr = 0xdead'beef;
    return desc;
}

// ---- Requests ----------------------------------------------------------------------------------

TEST(DecodeRequest, SectorsAre512BytesAlways) {
    Request request;
    ASSERT_EQ(decode_request(desc_of(abi::io_op_read, 8, 16), 3, 77, request), 0);
    EXPECT_EQ(request.op, Op::read);
    EXPECT_EQ(request.offset, 4096U);
    EXPECT_EQ(request.length, 8192U);
    EXPECT_EQ(request.queue, 3);
    EXPECT_EQ(request.tag, 77);
    EXPECT_EQ(request.buffer.length(), 0U);
    EXPECT_FALSE(request.fua);
    EXPECT_FALSE(request.no_unmap);
}

TEST(DecodeRequest, EveryOp) {
    constexpr std::pair<std::uint8_t, Op> ops[] = {
        {abi::io_op_read, Op::read},
        {abi::io_op_write, Op::write},
        {abi::io_op_discard, Op::discard},
        {abi::io_op_write_zeroes, Op::write_zeroes},
        {abi::io_op_zone_open, Op::zone_open},
        {abi::io_op_zone_close, Op::zone_close},
        {abi::io_op_zone_finish, Op::zone_finish},
        {abi::io_op_zone_append, Op::zone_append},
        {abi::io_op_zone_reset, Op::zone_reset},
    };
    for (const auto& [kernel_op, op] : ops) {
        Request request;
        ASSERT_EQ(decode_request(desc_of(kernel_op, 1, 1), 0, 0, request), 0) << name(op);
        EXPECT_EQ(request.op, op);
        EXPECT_EQ(request.offset, 512U);
        EXPECT_EQ(request.length, 512U);
    }
}

TEST(DecodeRequest, FlushHasNoRangeWhateverTheKernelLeftThere) {
    Request request;
    const auto everywhere = std::numeric_limits<std::uint64_t>::max();
    ASSERT_EQ(decode_request(desc_of(abi::io_op_flush, everywhere, 8), 0, 0, request), 0);
    EXPECT_EQ(request.op, Op::flush);
    EXPECT_EQ(request.offset, 0U);
    EXPECT_EQ(request.length, 0U);
    ASSERT_EQ(decode_request(desc_of(abi::io_op_zone_reset_all, everywhere, 8), 0, 0, request), 0);
    EXPECT_EQ(request.op, Op::zone_reset_all);
    EXPECT_EQ(request.length, 0U);
}

TEST(DecodeRequest, ReportZonesCountsZones) {
    abi::IoDesc desc{};
    desc.op_flags = abi::io_op_report_zones;
    desc.nr_zones = 5;
    desc.start_sector = 2048;
    Request request;
    ASSERT_EQ(decode_request(desc, 0, 0, request), 0);
    EXPECT_EQ(request.op, Op::report_zones);
    EXPECT_EQ(request.offset, 1048576U);
    EXPECT_EQ(request.length, 5 * sizeof(abi::Zone));
}

TEST(DecodeRequest, Flags) {
    Request request;
    ASSERT_EQ(decode_request(desc_of(abi::io_op_write | abi::io_f_fua, 0, 1), 0, 0, request), 0);
    EXPECT_TRUE(request.fua);
    EXPECT_FALSE(request.no_unmap);
    const auto zeroes = desc_of(abi::io_op_write_zeroes | abi::io_f_nounmap, 0, 1);
    ASSERT_EQ(decode_request(zeroes, 0, 0, request), 0);
    EXPECT_FALSE(request.fua);
    EXPECT_TRUE(request.no_unmap);
    EXPECT_EQ(kernel_flags(desc_of(abi::io_op_write | abi::io_f_need_reg_buf, 0, 1)),
              abi::io_f_need_reg_buf);
}

TEST(DecodeRequest, UnknownOpsAreNotSupported) {
    Request request{.offset = 1, .length = 2};
    for (std::uint32_t op = 0; op < 256; ++op) {
        const int error = decode_request(desc_of(op, 0, 8), 0, 0, request);
        const bool known = op <= 3 || op == 5 || (op >= 10 && op <= 15) || op == 18;
        EXPECT_EQ(error, known ? 0 : EOPNOTSUPP) << op;
    }
    request = {.offset = 1, .length = 2};
    EXPECT_EQ(decode_request(desc_of(abi::io_op_write_same, 7, 8), 0, 0, request), EOPNOTSUPP);
    EXPECT_EQ(request.offset, 1U);
    EXPECT_EQ(request.length, 2U);
}

TEST(DecodeRequest, RangesEndAtTwoToThe63) {
    constexpr std::uint64_t limit = std::uint64_t{1} << 54;
    Request request;
    EXPECT_EQ(decode_request(desc_of(abi::io_op_read, limit - 8, 8), 0, 0, request), 0);
    EXPECT_EQ(request.offset + request.length, std::uint64_t{1} << 63);
    EXPECT_EQ(decode_request(desc_of(abi::io_op_read, limit - 7, 8), 0, 0, request), EINVAL);
    EXPECT_EQ(decode_request(desc_of(abi::io_op_read, limit, 1), 0, 0, request), EINVAL);
    EXPECT_EQ(
        decode_request(desc_of(abi::io_op_read, ~std::uint64_t{0}, 0xffff'ffff), 0, 0, request),
        EINVAL);
    EXPECT_EQ(decode_request(desc_of(abi::io_op_read, 0, 0xffff'ffff), 0, 0, request), 0);
    EXPECT_EQ(request.length, std::uint64_t{0xffff'ffff} * 512);
}

TEST(EncodeRequest, IsTheInverse) {
    const Request request{.offset = 1 << 20, .length = 8192, .op = Op::write, .fua = true};
    const abi::IoDesc desc = encode_request(request, abi::io_f_meta, 99);
    EXPECT_EQ(desc.op_flags, abi::io_op_write | abi::io_f_fua | abi::io_f_meta);
    EXPECT_EQ(desc.addr, 99U);
    Request decoded;
    ASSERT_EQ(decode_request(desc, 0, 0, decoded), 0);
    EXPECT_EQ(decoded.offset, request.offset);
    EXPECT_EQ(decoded.length, request.length);
    EXPECT_EQ(decoded.op, request.op);
    EXPECT_TRUE(decoded.fua);
}

// ---- Layout and packed addresses ---------------------------------------------------------------

TEST(Layout, QueuesAreSpacedForTheDeepestQueue) {
    EXPECT_EQ(descriptor_map_offset(0, 4096), 0U);
    EXPECT_EQ(descriptor_map_offset(1, 4096), 4096U * 24);
    EXPECT_EQ(descriptor_map_offset(7, 4096), 7U * 4096 * 24);
    EXPECT_EQ(descriptor_map_offset(1, 65536), 131072U);  // 98304, rounded up to a page
    EXPECT_EQ(descriptor_map_offset(2, 4096, 64), 2U * 4096 * 64);
    EXPECT_EQ(descriptor_map_bytes(128, 4096), 4096U);
    EXPECT_EQ(descriptor_map_bytes(171, 4096), 8192U);
    EXPECT_EQ(descriptor_map_bytes(4096, 4096), 4096U * 24);
    EXPECT_EQ(descriptor_map_bytes(1, 65536), 65536U);
    EXPECT_EQ(descriptor_map_bytes(128, 4096, 64), 8192U);
}

TEST(Layout, DescriptorsLieTheirSizeApart) {
    std::array<abi::IoDesc, 8> map{};
    EXPECT_EQ(&descriptor(map.data(), 5, sizeof(abi::IoDesc)), &map[5]);
    EXPECT_EQ(&descriptor(map.data(), 2, 2 * sizeof(abi::IoDesc)), &map[4]);
}

TEST(Layout, UserCopyOffsets) {
    EXPECT_EQ(user_copy_offset(0, 0, 0), 0x8000'0000U);
    EXPECT_EQ(user_copy_offset(0, 1, 0), 0x8200'0000U);
    EXPECT_EQ(user_copy_offset(1, 2, 512),
              0x8000'0000U + (std::uint64_t{1} << 41) + (std::uint64_t{2} << 25) + 512);
    const UserCopyPosition corner{
        .queue = 4095, .tag = 4095, .byte = (1 << 25) - 1, .integrity = true};
    EXPECT_EQ(decode_user_copy_offset(
                  user_copy_offset(corner.queue, corner.tag, corner.byte, corner.integrity)),
              corner);
    const auto offset = user_copy_offset(4095, 65535, (1 << 25) - 1, true);
    EXPECT_LE(offset, static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
}

TEST(Packed, AutoBufReg) {
    EXPECT_EQ(encode_auto_buf_reg(0x1234, false), 0x1234U);
    EXPECT_EQ(encode_auto_buf_reg(0xffff, true), 0x1ffffU);
    const abi::AutoBufReg reg = decode_auto_buf_reg(encode_auto_buf_reg(7, true));
    EXPECT_EQ(reg.index, 7);
    EXPECT_EQ(reg.flags, abi::auto_buf_reg_fallback);
    EXPECT_EQ(reg.reserved0, 0);
    EXPECT_EQ(reg.reserved1, 0U);
}

TEST(Packed, ShmemAddress) {
    const ShmemAddress address{.index = 0xffff, .offset = 0xffff'f000};
    EXPECT_EQ(encode_shmem_address(address), 0x0000'ffff'ffff'f000U);
    EXPECT_EQ(decode_shmem_address(encode_shmem_address(address)), address);
    const ShmemAddress low{.index = 2, .offset = 1};
    EXPECT_EQ(decode_shmem_address(0xabcd'0002'0000'0001U), low);
}

TEST(Packed, IoCmd) {
    const abi::IoCmd command = make_io_cmd(1, 2, -5, 0x7fff'0000);
    EXPECT_EQ(command.q_id, 1);
    EXPECT_EQ(command.tag, 2);
    EXPECT_EQ(command.result, -5);
    EXPECT_EQ(command.addr, 0x7fff'0000U);
}

// ---- Batches -----------------------------------------------------------------------------------

TEST(Batch, ElementsTravelAsTheFlagsSay) {
    const BatchElement element{
        .tag = 9, .buf_index = 4, .result = -5, .buf_addr = 0x1122'3344'5566'7788, .zone_lba = 42};
    constexpr std::pair<std::uint16_t, std::size_t> sizes[] = {
        {std::uint16_t{0}, 8},
        {abi::batch_f_auto_buf_reg_fallback, 8},
        {abi::batch_f_has_buf_addr, 16},
        {abi::batch_f_has_zone_lba, 16},
        {static_cast<std::uint16_t>(abi::batch_f_has_buf_addr | abi::batch_f_has_zone_lba), 24},
    };
    for (const auto& [flags, size] : sizes) {
        std::array<std::byte, batch_element_bytes_max> bytes{};
        ASSERT_EQ(encode_batch_element(flags, element, bytes.data()), size) << flags;
        EXPECT_EQ(batch_element_bytes(flags), size) << flags;
        EXPECT_FALSE(decode_batch_element(flags, std::span(bytes).first(size - 1)));
        const auto decoded = decode_batch_element(flags, std::span(bytes).first(size));
        ASSERT_TRUE(decoded) << flags;
        EXPECT_EQ(decoded->tag, 9);
        EXPECT_EQ(decoded->buf_index, 4);
        EXPECT_EQ(decoded->result, -5);
        EXPECT_EQ(decoded->buf_addr,
                  (flags & abi::batch_f_has_buf_addr) != 0 ? element.buf_addr : 0);
        EXPECT_EQ(decoded->zone_lba, (flags & abi::batch_f_has_zone_lba) != 0 ? 42U : 0U);
    }
}

TEST(Batch, TheBufferAddressComesBeforeTheZone) {
    constexpr auto flags =
        static_cast<std::uint16_t>(abi::batch_f_has_buf_addr | abi::batch_f_has_zone_lba);
    std::array<std::byte, batch_element_bytes_max> bytes{};
    encode_batch_element(flags, {.buf_addr = 1, .zone_lba = 2}, bytes.data());
    EXPECT_EQ(bytes[8], std::byte{1});
    EXPECT_EQ(bytes[16], std::byte{2});
}

TEST(Batch, Flags) {
    EXPECT_TRUE(batch_flags_valid(0));
    EXPECT_TRUE(batch_flags_valid(abi::batch_f_has_buf_addr | abi::batch_f_has_zone_lba));
    EXPECT_FALSE(batch_flags_valid(abi::batch_f_has_buf_addr | abi::batch_f_auto_buf_reg_fallback));
    EXPECT_FALSE(batch_flags_valid(1 << 3));
}

TEST(Batch, Commands) {
    const abi::BatchIo commit = make_batch_io(3, abi::batch_f_has_buf_addr, 100);
    EXPECT_EQ(commit.q_id, 3);
    EXPECT_EQ(commit.flags, abi::batch_f_has_buf_addr);
    EXPECT_EQ(commit.nr_elem, 100);
    EXPECT_EQ(commit.elem_bytes, 16);
    const abi::BatchIo fetch = make_batch_fetch(3);
    EXPECT_EQ(fetch.flags, 0);
    EXPECT_EQ(fetch.elem_bytes, 2);
}

TEST(Batch, APartialCommitCountsWhatWasTaken) {
    EXPECT_EQ(batch_committed(800, 0), 100U);
    EXPECT_EQ(batch_committed(48, abi::batch_f_has_buf_addr), 3U);
    EXPECT_EQ(batch_committed(0, 0), 0U);
    EXPECT_EQ(batch_committed(-EBUSY, 0), 0U);
}

// ---- Control commands and device information ---------------------------------------------------

TEST(Control, DefaultsAreWhatCommandsOfADeviceNeed) {
    const abi::CtrlCmd command = make_control_command({.dev_id = 5, .data = 1234});
    EXPECT_EQ(command.dev_id, 5U);
    EXPECT_EQ(command.queue_id, 0xffff);
    EXPECT_EQ(command.len, 0);
    EXPECT_EQ(command.addr, 0U);
    EXPECT_EQ(command.data[0], 1234U);
    EXPECT_EQ(command.dev_path_len, 0);
    EXPECT_EQ(command.pad, 0);
    EXPECT_EQ(command.reserved, 0U);
}

TEST(Control, Buffer) {
    std::uint64_t features = 0;
    const abi::CtrlCmd command =
        make_control_command({.buffer = &features, .length = sizeof features});
    EXPECT_EQ(command.dev_id, any_device);
    EXPECT_EQ(command.len, abi::features_len);
    EXPECT_EQ(command.addr, reinterpret_cast<std::uintptr_t>(&features));
}

TEST(Control, LegacyOpcodes) {
    EXPECT_EQ(control::add_dev.ioctl, abi::u_cmd_add_dev);
    EXPECT_EQ(control::add_dev.legacy, abi::cmd_add_dev);
    EXPECT_EQ(control::get_dev_info2.legacy, abi::cmd_get_dev_info2);
    EXPECT_EQ(control::get_features.legacy, 0U);
    EXPECT_EQ(control::unreg_buf.legacy, 0U);
    EXPECT_EQ(control::stop_dev.name, "STOP_DEV");
}

TEST(Control, PathComesFirstWithItsNul) {
    const std::array payload{std::byte{7}, std::byte{8}};
    const auto buffer = prepend_device_path("/dev/ublkc3", payload);
    ASSERT_EQ(buffer.size(), 14U);
    EXPECT_STREQ(reinterpret_cast<const char*>(buffer.data()), "/dev/ublkc3");
    EXPECT_EQ(buffer[12], std::byte{7});
    EXPECT_EQ(buffer[13], std::byte{8});
    EXPECT_EQ(prepend_device_path("/x", {}).size(), 3U);
    EXPECT_EQ(prepend_device_path({}, {}).size(), 1U);
}

TEST(DevInfo, RoundTrip) {
    const DevSettings settings{.dev_id = 3,
                               .queues = 2,
                               .depth = 64,
                               .io_max_bytes = 1 << 20,
                               .features = abi::f_user_copy | abi::f_io_desc_size,
                               .server_flags = 5,
                               .desc_size = 64,
                               .state = abi::DevState::live,
                               .server_pid = 99,
                               .owner_uid = 1000,
                               .owner_gid = 1001};
    EXPECT_EQ(decode_dev_info(encode_dev_info(settings)), settings);
}

TEST(DevInfo, TheSlotSizeOfKernelsWithoutOne) {
    const DevSettings settings{.desc_size = 64};
    EXPECT_EQ(encode_dev_info(settings).io_desc_size, 0);
    abi::DevInfo info{};
    EXPECT_EQ(decode_dev_info(info).desc_size, 24);
    info.io_desc_size = 0x5555;  // padding of an old kernel
    EXPECT_EQ(decode_dev_info(info).desc_size, 24);
}

TEST(DevInfo, StateNames) {
    EXPECT_EQ(state_name(abi::DevState::dead), "dead");
    EXPECT_EQ(state_name(abi::DevState::live), "live");
    EXPECT_EQ(state_name(abi::DevState::quiesced), "quiesced");
    EXPECT_EQ(state_name(abi::DevState::fail_io), "fail_io");
    EXPECT_EQ(state_name(static_cast<abi::DevState>(9)), "unknown");
}

}  // namespace
}  // namespace ashlar::kernel
