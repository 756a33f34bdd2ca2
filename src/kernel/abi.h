// Our own declaration of the kernel's ublk interface, complete as of Linux 7.3. Names are the
// kernel's in snake_case, without the UBLK prefix: UBLK_F_USER_COPY is f_user_copy, struct
// ublksrv_io_desc is IoDesc. Declared here and not included, so that one program is built on any
// machine and runs on any kernel; abi_header_test compares every value with a kernel's header.
//
// Plain values and standard-layout structs in host byte order; nothing here has behaviour.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ashlar::kernel::abi {

// ---- Opcodes -----------------------------------------------------------------------------------

// The generic ioctl number encoding: direction (2 bits), argument size (14), type (8), number (8).
// True for x86, arm64, riscv and s390; a few old architectures differ and have no ublk users.
enum class Direction : std::uint32_t { write = 1, read = 2, read_write = 3 };

[[nodiscard]] constexpr std::uint32_t encode_opcode(Direction direction, std::uint32_t number,
                                                    std::size_t argument_size) noexcept {
    constexpr std::uint32_t type = 'u';
    return static_cast<std::uint32_t>(direction) << 30 |
           (static_cast<std::uint32_t>(argument_size) & 0x3fff) << 16 | type << 8 | (number & 0xff);
}

// The opcode's number, equal to the legacy opcode where there is one.
[[nodiscard]] constexpr std::uint32_t opcode_number(std::uint32_t opcode) noexcept {
    return opcode & 0xff;
}

// Control commands as the first kernels took them. Today's kernels take them only if built so.
inline constexpr std::uint32_t cmd_get_queue_affinity = 0x01;
inline constexpr std::uint32_t cmd_get_dev_info = 0x02;
inline constexpr std::uint32_t cmd_add_dev = 0x04;
inline constexpr std::uint32_t cmd_del_dev = 0x05;
inline constexpr std::uint32_t cmd_start_dev = 0x06;
inline constexpr std::uint32_t cmd_stop_dev = 0x07;
inline constexpr std::uint32_t cmd_set_params = 0x08;
inline constexpr std::uint32_t cmd_get_params = 0x09;
inline constexpr std::uint32_t cmd_start_user_recovery = 0x10;
inline constexpr std::uint32_t cmd_end_user_recovery = 0x11;
inline constexpr std::uint32_t cmd_get_dev_info2 = 0x12;

// What every control command carries, in the second half of a 128-byte SQE (at byte 48).
struct CtrlCmd {
    std::uint32_t dev_id;        // 0xffffffff with ADD_DEV: the kernel chooses
    std::uint16_t queue_id;      // 0xffff unless the command is about one queue
    std::uint16_t len;           // bytes at addr, the device path included
    std::uint64_t addr;          // buffer, in or out as the command says; a path may come first
    std::uint64_t data[1];       // inline argument: pid, size in sectors, timeout in ms, index
    std::uint16_t dev_path_len;  // bytes of path at the start of the buffer, its NUL included
    std::uint16_t pad;
    std::uint32_t reserved;
};
static_assert(sizeof(CtrlCmd) == 32 && std::is_standard_layout_v<CtrlCmd>);
static_assert(offsetof(CtrlCmd, dev_id) == 0);
static_assert(offsetof(CtrlCmd, queue_id) == 4);
static_assert(offsetof(CtrlCmd, len) == 6);
static_assert(offsetof(CtrlCmd, addr) == 8);
static_assert(offsetof(CtrlCmd, data) == 16);
static_assert(offsetof(CtrlCmd, dev_path_len) == 24);
static_assert(offsetof(CtrlCmd, pad) == 26);
static_assert(offsetof(CtrlCmd, reserved) == 28);

namespace detail {
constexpr std::uint32_t control_read(std::uint32_t number) noexcept {
    return encode_opcode(Direction::read, number, sizeof(CtrlCmd));
}
constexpr std::uint32_t control_read_write(std::uint32_t number) noexcept {
    return encode_opcode(Direction::read_write, number, sizeof(CtrlCmd));
}
}  // namespace detail

// Control commands with ioctl encoding.
inline constexpr std::uint32_t u_cmd_get_queue_affinity =
    detail::control_read(cmd_get_queue_affinity);
inline constexpr std::uint32_t u_cmd_get_dev_info = detail::control_read(cmd_get_dev_info);
inline constexpr std::uint32_t u_cmd_add_dev = detail::control_read_write(cmd_add_dev);
inline constexpr std::uint32_t u_cmd_del_dev = detail::control_read_write(cmd_del_dev);
inline constexpr std::uint32_t u_cmd_start_dev = detail::control_read_write(cmd_start_dev);
inline constexpr std::uint32_t u_cmd_stop_dev = detail::control_read_write(cmd_stop_dev);
inline constexpr std::uint32_t u_cmd_set_params = detail::control_read_write(cmd_set_params);
inline constexpr std::uint32_t u_cmd_get_params = detail::control_read(cmd_get_params);
inline constexpr std::uint32_t u_cmd_start_user_recovery =
    detail::control_read_write(cmd_start_user_recovery);
inline constexpr std::uint32_t u_cmd_end_user_recovery =
    detail::control_read_write(cmd_end_user_recovery);
inline constexpr std::uint32_t u_cmd_get_dev_info2 = detail::control_read(cmd_get_dev_info2);
// From here on there is no legacy form.
inline constexpr std::uint32_t u_cmd_get_features = detail::control_read(0x13);
inline constexpr std::uint32_t u_cmd_del_dev_async = detail::control_read(0x14);
inline constexpr std::uint32_t u_cmd_update_size = detail::control_read_write(0x15);
inline constexpr std::uint32_t u_cmd_quiesce_dev = detail::control_read_write(0x16);
inline constexpr std::uint32_t u_cmd_try_stop_dev = detail::control_read_write(0x17);
inline constexpr std::uint32_t u_cmd_reg_buf = detail::control_read_write(0x18);
inline constexpr std::uint32_t u_cmd_unreg_buf = detail::control_read_write(0x19);

inline constexpr std::uint16_t features_len = 8;  // bytes GET_FEATURES fills

// I/O commands as the first kernels took them.
inline constexpr std::uint32_t io_fetch_req = 0x20;
inline constexpr std::uint32_t io_commit_and_fetch_req = 0x21;
inline constexpr std::uint32_t io_need_get_data = 0x22;

// What a command on one tag carries, at byte 48 of an ordinary 64-byte SQE.
struct IoCmd {
    std::uint16_t q_id;
    std::uint16_t tag;
    std::int32_t result;  // commit: bytes done or a negative errno
    union {
        std::uint64_t addr;             // the tag's buffer, or an index in the ring's buffer table
        std::uint64_t zone_append_lba;  // commit of zone_append: the sector it was written to
    };
};
static_assert(sizeof(IoCmd) == 16 && std::is_standard_layout_v<IoCmd>);
static_assert(offsetof(IoCmd, q_id) == 0);
static_assert(offsetof(IoCmd, tag) == 2);
static_assert(offsetof(IoCmd, result) == 4);
static_assert(offsetof(IoCmd, addr) == 8);
static_assert(offsetof(IoCmd, zone_append_lba) == 8);

// What a batch command carries, at byte 48 of an ordinary SQE. The elements are at the SQE's addr.
struct BatchIo {
    std::uint16_t q_id;
    std::uint16_t flags;      // batch_f_*; 0 for a batch fetch
    std::uint16_t nr_elem;    // at most the queue depth
    std::uint8_t elem_bytes;  // of one element: 8, 16 or 24 as flags say; 2 for a batch fetch
    std::uint8_t reserved;
    std::uint64_t reserved2;
};
static_assert(sizeof(BatchIo) == 16 && std::is_standard_layout_v<BatchIo>);
static_assert(offsetof(BatchIo, q_id) == 0);
static_assert(offsetof(BatchIo, flags) == 2);
static_assert(offsetof(BatchIo, nr_elem) == 4);
static_assert(offsetof(BatchIo, elem_bytes) == 6);
static_assert(offsetof(BatchIo, reserved) == 7);
static_assert(offsetof(BatchIo, reserved2) == 8);

// The start of an element of a batch prepare or commit. A buffer address (8 bytes) and the zone
// sector (8 bytes) follow, in this order, each if its flag is set.
struct ElemHeader {
    std::uint16_t tag;
    std::uint16_t buf_index;  // automatic buffer registration: the index for the tag's next request
    std::int32_t result;      // commit: bytes done or a negative errno
};
static_assert(sizeof(ElemHeader) == 8 && std::is_standard_layout_v<ElemHeader>);
static_assert(offsetof(ElemHeader, tag) == 0);
static_assert(offsetof(ElemHeader, buf_index) == 2);
static_assert(offsetof(ElemHeader, result) == 4);

inline constexpr std::uint16_t batch_f_has_zone_lba = 1U << 0;
inline constexpr std::uint16_t batch_f_has_buf_addr = 1U << 1;
inline constexpr std::uint16_t batch_f_auto_buf_reg_fallback = 1U << 2;

namespace detail {
constexpr std::uint32_t io_command(std::uint32_t number) noexcept {
    return encode_opcode(Direction::read_write, number, sizeof(IoCmd));
}
constexpr std::uint32_t batch_command(std::uint32_t number) noexcept {
    return encode_opcode(Direction::read_write, number, sizeof(BatchIo));
}
}  // namespace detail

// I/O commands with ioctl encoding.
inline constexpr std::uint32_t u_io_fetch_req = detail::io_command(io_fetch_req);
inline constexpr std::uint32_t u_io_commit_and_fetch_req =
    detail::io_command(io_commit_and_fetch_req);
inline constexpr std::uint32_t u_io_need_get_data = detail::io_command(io_need_get_data);
inline constexpr std::uint32_t u_io_register_io_buf = detail::io_command(0x23);
inline constexpr std::uint32_t u_io_unregister_io_buf = detail::io_command(0x24);
// The batch commands. A prepare is all or nothing; a commit answers the bytes of elements it
// took, and the rest must be committed again; a fetch is multishot and delivers 16-bit tags.
inline constexpr std::uint32_t u_io_prep_io_cmds = detail::batch_command(0x25);
inline constexpr std::uint32_t u_io_commit_io_cmds = detail::batch_command(0x26);
inline constexpr std::uint32_t u_io_fetch_io_cmds = detail::batch_command(0x27);

// How an I/O command completes.
inline constexpr std::int32_t io_res_ok = 0;             // a request is in the tag's descriptor
inline constexpr std::int32_t io_res_need_get_data = 1;  // a write: say where its data shall go
inline constexpr std::int32_t io_res_abort = -ENODEV;    // the device stops: do not fetch again

// ---- The character device's offsets and limits -------------------------------------------------

inline constexpr std::uint64_t cmd_buf_offset = 0;           // mmap: the descriptor arrays
inline constexpr std::uint64_t io_buf_offset = 0x8000'0000;  // pread, pwrite: user copy

inline constexpr std::uint32_t max_queue_depth = 4096;

// A user copy's position, less io_buf_offset: byte within the request, tag, queue.
inline constexpr unsigned io_buf_off = 0;
inline constexpr unsigned io_buf_bits = 25;
inline constexpr std::uint64_t io_buf_bits_mask = (std::uint64_t{1} << io_buf_bits) - 1;
inline constexpr unsigned tag_off = io_buf_bits;
inline constexpr unsigned tag_bits = 16;
inline constexpr std::uint64_t tag_bits_mask = (std::uint64_t{1} << tag_bits) - 1;
inline constexpr unsigned qid_off = tag_off + tag_bits;
inline constexpr unsigned qid_bits = 12;
inline constexpr std::uint64_t qid_bits_mask = (std::uint64_t{1} << qid_bits) - 1;
inline constexpr std::uint32_t max_nr_queues = 1U << qid_bits;
inline constexpr unsigned io_buf_total_bits = qid_off + qid_bits;
inline constexpr std::uint64_t io_buf_total_size = std::uint64_t{1} << io_buf_total_bits;
// Added to the position: copy the request's integrity buffer, not its data.
inline constexpr unsigned integrity_flag_off = 62;
inline constexpr std::uint64_t io_integrity_flag = std::uint64_t{1} << integrity_flag_off;

// ---- Features ----------------------------------------------------------------------------------

// What each one does: features.h.
inline constexpr std::uint64_t f_support_zero_copy = std::uint64_t{1} << 0;
inline constexpr std::uint64_t f_uring_cmd_comp_in_task = std::uint64_t{1} << 1;
inline constexpr std::uint64_t f_need_get_data = std::uint64_t{1} << 2;
inline constexpr std::uint64_t f_user_recovery = std::uint64_t{1} << 3;
inline constexpr std::uint64_t f_user_recovery_reissue = std::uint64_t{1} << 4;
inline constexpr std::uint64_t f_unprivileged_dev = std::uint64_t{1} << 5;
inline constexpr std::uint64_t f_cmd_ioctl_encode = std::uint64_t{1} << 6;
inline constexpr std::uint64_t f_user_copy = std::uint64_t{1} << 7;
inline constexpr std::uint64_t f_zoned = std::uint64_t{1} << 8;
inline constexpr std::uint64_t f_user_recovery_fail_io = std::uint64_t{1} << 9;
inline constexpr std::uint64_t f_update_size = std::uint64_t{1} << 10;
inline constexpr std::uint64_t f_auto_buf_reg = std::uint64_t{1} << 11;
inline constexpr std::uint64_t f_quiesce = std::uint64_t{1} << 12;
inline constexpr std::uint64_t f_per_io_daemon = std::uint64_t{1} << 13;
inline constexpr std::uint64_t f_buf_reg_off_daemon = std::uint64_t{1} << 14;
inline constexpr std::uint64_t f_batch_io = std::uint64_t{1} << 15;
inline constexpr std::uint64_t f_integrity = std::uint64_t{1} << 16;
inline constexpr std::uint64_t f_safe_stop_dev = std::uint64_t{1} << 17;
inline constexpr std::uint64_t f_no_auto_part_scan = std::uint64_t{1} << 18;
inline constexpr std::uint64_t f_shmem_zc = std::uint64_t{1} << 19;
inline constexpr std::uint64_t f_io_desc_size = std::uint64_t{1} << 20;

// ---- Devices -----------------------------------------------------------------------------------

enum class DevState : std::uint16_t {
    dead = 0,      // added, not started; or stopped
    live = 1,      // /dev/ublkbN is there and served
    quiesced = 2,  // its server is gone; requests wait for a new one
    fail_io = 3,   // its server is gone; requests fail until a new one comes
};

// Given with ADD_DEV, which writes back what it settled on; read with GET_DEV_INFO.
struct DevInfo {
    std::uint16_t nr_hw_queues;  // capped to the number of CPUs
    std::uint16_t queue_depth;
    std::uint16_t state;         // a DevState
    std::uint16_t io_desc_size;  // bytes of one IoDesc slot with f_io_desc_size; padding before it

    std::uint32_t max_io_buf_bytes;  // largest request; rounded down to whole pages
    std::uint32_t dev_id;            // 0xffffffff: the kernel chooses

    std::int32_t ublksrv_pid;  // of the server; -1 without one
    std::uint32_t pad1;

    std::uint64_t flags;          // f_*: asked for, then granted
    std::uint64_t ublksrv_flags;  // the server's own, kept but not read by the kernel

    std::uint32_t owner_uid;  // set by the kernel
    std::uint32_t owner_gid;
    std::uint64_t reserved1;
    std::uint64_t reserved2;
};
static_assert(sizeof(DevInfo) == 64 && std::is_standard_layout_v<DevInfo>);
static_assert(offsetof(DevInfo, nr_hw_queues) == 0);
static_assert(offsetof(DevInfo, queue_depth) == 2);
static_assert(offsetof(DevInfo, state) == 4);
static_assert(offsetof(DevInfo, io_desc_size) == 6);
static_assert(offsetof(DevInfo, max_io_buf_bytes) == 8);
static_assert(offsetof(DevInfo, dev_id) == 12);
static_assert(offsetof(DevInfo, ublksrv_pid) == 16);
static_assert(offsetof(DevInfo, pad1) == 20);
static_assert(offsetof(DevInfo, flags) == 24);
static_assert(offsetof(DevInfo, ublksrv_flags) == 32);
static_assert(offsetof(DevInfo, owner_uid) == 40);
static_assert(offsetof(DevInfo, owner_gid) == 44);
static_assert(offsetof(DevInfo, reserved1) == 48);
static_assert(offsetof(DevInfo, reserved2) == 56);

// ---- Requests ----------------------------------------------------------------------------------

inline constexpr std::uint8_t io_op_read = 0;
inline constexpr std::uint8_t io_op_write = 1;
inline constexpr std::uint8_t io_op_flush = 2;
inline constexpr std::uint8_t io_op_discard = 3;
inline constexpr std::uint8_t io_op_write_same = 4;  // never sent
inline constexpr std::uint8_t io_op_write_zeroes = 5;
inline constexpr std::uint8_t io_op_zone_open = 10;
inline constexpr std::uint8_t io_op_zone_close = 11;
inline constexpr std::uint8_t io_op_zone_finish = 12;
inline constexpr std::uint8_t io_op_zone_append = 13;
inline constexpr std::uint8_t io_op_zone_reset_all = 14;
inline constexpr std::uint8_t io_op_zone_reset = 15;
inline constexpr std::uint8_t io_op_report_zones = 18;

inline constexpr std::uint32_t io_f_failfast_dev = 1U << 8;
inline constexpr std::uint32_t io_f_failfast_transport = 1U << 9;
inline constexpr std::uint32_t io_f_failfast_driver = 1U << 10;
inline constexpr std::uint32_t io_f_meta = 1U << 11;
inline constexpr std::uint32_t io_f_fua = 1U << 13;
inline constexpr std::uint32_t io_f_nounmap = 1U << 15;
inline constexpr std::uint32_t io_f_swap = 1U << 16;
// Automatic registration failed and fallback was asked for: register the buffer by hand.
inline constexpr std::uint32_t io_f_need_reg_buf = 1U << 17;
inline constexpr std::uint32_t io_f_integrity = 1U << 18;
// addr is a shared-memory address (index and offset), not a pointer.
inline constexpr std::uint32_t io_f_shmem_zc = 1U << 19;

// One request. The kernel writes it in the queue's array, in the tag's slot, before the fetch of
// that tag completes; slots are DevInfo::io_desc_size bytes apart.
struct IoDesc {
    std::uint32_t op_flags;  // op in bits 0 to 7, io_f_* above
    union {
        std::uint32_t nr_sectors;  // always of 512 bytes
        std::uint32_t nr_zones;    // report_zones: at most this many
    };
    std::uint64_t start_sector;  // always of 512 bytes
    std::uint64_t addr;          // as the tag's last command gave it, or see io_f_shmem_zc
};
static_assert(sizeof(IoDesc) == 24 && alignof(IoDesc) == 8 && std::is_standard_layout_v<IoDesc>);
static_assert(offsetof(IoDesc, op_flags) == 0);
static_assert(offsetof(IoDesc, nr_sectors) == 4);
static_assert(offsetof(IoDesc, nr_zones) == 4);
static_assert(offsetof(IoDesc, start_sector) == 8);
static_assert(offsetof(IoDesc, addr) == 16);
// The largest slot the driver takes; a limit inside the driver, not in its header.
inline constexpr std::uint16_t max_io_desc_size = 256;

// ---- Automatic buffer registration -------------------------------------------------------------

inline constexpr std::uint8_t auto_buf_reg_fallback = 1U << 0;
inline constexpr std::uint8_t auto_buf_reg_f_mask = auto_buf_reg_fallback;

// Packed in the SQE's addr: index in bits 0 to 15, flags 16 to 23, the rest zero.
struct AutoBufReg {
    std::uint16_t index;
    std::uint8_t flags;
    std::uint8_t reserved0;
    std::uint32_t reserved1;
};
static_assert(sizeof(AutoBufReg) == 8 && std::is_standard_layout_v<AutoBufReg>);
static_assert(offsetof(AutoBufReg, index) == 0);
static_assert(offsetof(AutoBufReg, flags) == 2);
static_assert(offsetof(AutoBufReg, reserved0) == 3);
static_assert(offsetof(AutoBufReg, reserved1) == 4);

// ---- Shared memory -----------------------------------------------------------------------------

// What REG_BUF's addr points to; the command answers the index.
struct ShmemBufReg {
    std::uint64_t addr;  // whole pages
    std::uint64_t len;   // bytes, whole pages, at most shmem_buf_size_max
    std::uint32_t flags;
    std::uint32_t reserved;
};
static_assert(sizeof(ShmemBufReg) == 24 && std::is_standard_layout_v<ShmemBufReg>);
static_assert(offsetof(ShmemBufReg, addr) == 0);
static_assert(offsetof(ShmemBufReg, len) == 8);
static_assert(offsetof(ShmemBufReg, flags) == 16);
static_assert(offsetof(ShmemBufReg, reserved) == 20);

inline constexpr std::uint32_t shmem_buf_read_only = 1U << 0;
// A limit inside the driver, not in its header.
inline constexpr std::uint64_t shmem_buf_size_max = std::uint64_t{1} << 32;

// IoDesc::addr with io_f_shmem_zc: offset in bits 0 to 31, index in 32 to 47, the rest zero.
inline constexpr std::uint64_t shmem_zc_off_mask = 0xffff'ffff;
inline constexpr unsigned shmem_zc_idx_off = 32;
inline constexpr std::uint64_t shmem_zc_idx_mask = 0xffff;

}  // namespace ashlar::kernel::abi

#include "kernel/abi_params.h"
