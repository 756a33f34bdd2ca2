// Translates between the kernel's ublk interface and the library's values: pure functions, no
// state, no system calls, no exceptions. What runs once an I/O is inline, the rest in codec.cc.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ashlar/types.h>

#include "kernel/abi.h"

namespace ashlar::kernel {

inline constexpr unsigned sector_shift = 9;  // sectors are 512 bytes, whatever the logical block

// ---- Requests (hot) ----------------------------------------------------------------------------

namespace detail {

// How to read a descriptor of one op; sixteen bytes, so that a shift finds it.
struct OpRule {
    Op op = Op::read;
    bool known = false;
    std::uint8_t length_shift = 0;  // nr_sectors or nr_zones to bytes
    std::uint64_t mask = 0;         // all ones: has a position and a length; 0: they mean nothing
};

inline constexpr std::uint8_t op_rule_count = 32;  // a power of two above the largest op

inline constexpr std::uint64_t ranged = ~std::uint64_t{0};

struct OpRules {
    OpRule rule[op_rule_count] = {};

    constexpr OpRules() noexcept {
        constexpr std::uint8_t zone_shift = 6;  // sizeof(abi::Zone)
        static_assert(sizeof(abi::Zone) == std::size_t{1} << zone_shift);
        rule[abi::io_op_read] = {Op::read, true, sector_shift, ranged};
        rule[abi::io_op_write] = {Op::write, true, sector_shift, ranged};
        // A flush's start sector is whatever the block layer left there, maybe all ones.
        rule[abi::io_op_flush] = {Op::flush, true, 0, 0};
        rule[abi::io_op_discard] = {Op::discard, true, sector_shift, ranged};
        rule[abi::io_op_write_zeroes] = {Op::write_zeroes, true, sector_shift, ranged};
        rule[abi::io_op_zone_open] = {Op::zone_open, true, sector_shift, ranged};
        rule[abi::io_op_zone_close] = {Op::zone_close, true, sector_shift, ranged};
        rule[abi::io_op_zone_finish] = {Op::zone_finish, true, sector_shift, ranged};
        rule[abi::io_op_zone_append] = {Op::zone_append, true, sector_shift, ranged};
        rule[abi::io_op_zone_reset_all] = {Op::zone_reset_all, true, 0, 0};
        rule[abi::io_op_zone_reset] = {Op::zone_reset, true, sector_shift, ranged};
        rule[abi::io_op_report_zones] = {Op::report_zones, true, zone_shift, ranged};
    }
};
inline constexpr OpRules op_rules;

// Ranges end at 2^63 bytes, where file offsets end.
inline constexpr std::uint64_t sector_limit = std::uint64_t{1} << (63 - sector_shift);

}  // namespace detail

// Reads the descriptor the kernel wrote for a tag. Answers 0 and fills `request`, all but its
// buffer, which is empty; or answers a positive errno to commit, with `request` untouched:
// EOPNOTSUPP for an op that is not known, EINVAL for a range past 2^63 bytes. For report_zones
// length is the size of the report asked for: 64 bytes (abi::Zone) for each zone.
[[nodiscard]] inline int decode_request(const abi::IoDesc& desc, std::uint16_t queue,
                                        std::uint16_t tag, Request& request) noexcept {
    const std::uint32_t op_flags = desc.op_flags;
    const std::uint32_t op = op_flags & 0xff;
    const auto fill = [&](const detail::OpRule& rule) noexcept {
        const std::uint64_t sector = desc.start_sector & rule.mask;
        const std::uint64_t count = desc.nr_sectors & rule.mask;  // nr_zones is the same word
        // A count is below 2^32, so the subtraction cannot wrap; zones are counted as sectors here,
        // which only makes the limit a little stricter.
        if (sector > detail::sector_limit - count) [[unlikely]]
            return EINVAL;
        request.offset = sector << sector_shift;
        request.length = count << rule.length_shift;
        request.op = rule.op;
        request.fua = (op_flags & abi::io_f_fua) != 0;
        request.no_unmap = (op_flags & abi::io_f_nounmap) != 0;
        request.queue = queue;
        request.tag = tag;
        request.buffer = {};
        return 0;
    };
    // Reads and writes, which nearly all are: the rule is known without looking.
    if (op <= abi::io_op_write) [[likely]]
        return fill({static_cast<Op>(op), true, sector_shift, detail::ranged});
    const detail::OpRule& rule = detail::op_rules.rule[op & (detail::op_rule_count - 1U)];
    if (op >= detail::op_rule_count || !rule.known) [[unlikely]]
        return EOPNOTSUPP;
    return fill(rule);
}
static_assert(abi::io_op_read == 0 && abi::io_op_write == 1);
static_assert(Op{abi::io_op_read} == Op::read && Op{abi::io_op_write} == Op::write);

// The descriptor's io_f_* bits, the op removed: test against abi::io_f_need_reg_buf, io_f_shmem_zc,
// io_f_integrity, io_f_meta.
[[nodiscard]] constexpr std::uint32_t kernel_flags(const abi::IoDesc& desc) noexcept {
    return desc.op_flags & ~std::uint32_t{0xff};
}

// A report that a session filled in, zones of it, as the kernel wants it: the entry after the last
// is all zeroes, if there is room for one.
void encode_zone_report(std::span<std::byte> report, std::size_t zones) noexcept;

// The inverse, for a model of the driver. Length is rounded down to whole sectors (or zones).
[[nodiscard]] abi::IoDesc encode_request(const Request& request, std::uint32_t flags,
                                         std::uint64_t addr) noexcept;

// The command for one tag: fetch, commit, get data, register, unregister.
[[nodiscard]] constexpr abi::IoCmd make_io_cmd(std::uint16_t queue, std::uint16_t tag,
                                               std::int32_t result, std::uint64_t addr) noexcept {
    abi::IoCmd command{};
    command.q_id = queue;
    command.tag = tag;
    command.result = result;
    command.addr = addr;
    return command;
}

// ---- Where things lie in the character device --------------------------------------------------

// Queues' descriptor arrays are spaced for the deepest queue there can be, whatever the depth is.
// page_size is a power of two; desc_size is DevSettings::desc_size.
[[nodiscard]] constexpr std::uint64_t descriptor_map_offset(
    std::uint16_t queue, std::size_t page_size,
    std::size_t desc_size = sizeof(abi::IoDesc)) noexcept {
    const std::uint64_t stride =
        (std::uint64_t{abi::max_queue_depth} * desc_size + page_size - 1) & ~(page_size - 1);
    return abi::cmd_buf_offset + queue * stride;
}

// The exact length to map for one queue; the kernel refuses any other.
[[nodiscard]] constexpr std::size_t descriptor_map_bytes(
    std::uint16_t depth, std::size_t page_size,
    std::size_t desc_size = sizeof(abi::IoDesc)) noexcept {
    return (depth * desc_size + page_size - 1) & ~(page_size - 1);
}

// The tag's descriptor in a mapped array.
[[nodiscard]] inline const abi::IoDesc& descriptor(const void* map, std::uint16_t tag,
                                                   std::size_t desc_size) noexcept {
    return *reinterpret_cast<const abi::IoDesc*>(static_cast<const std::byte*>(map) +
                                                 tag * desc_size);
}

// Where to pread or pwrite to move bytes between a request, from its byte `byte`, and memory.
// queue < abi::max_nr_queues, byte < 2^25.
[[nodiscard]] constexpr std::uint64_t user_copy_offset(std::uint16_t queue, std::uint16_t tag,
                                                       std::uint32_t byte,
                                                       bool integrity = false) noexcept {
    const std::uint64_t position = std::uint64_t{queue} << abi::qid_off |
                                   std::uint64_t{tag} << abi::tag_off |
                                   (byte & abi::io_buf_bits_mask);
    return (abi::io_buf_offset + position) | (integrity ? abi::io_integrity_flag : 0);
}

struct UserCopyPosition {
    std::uint16_t queue = 0;
    std::uint16_t tag = 0;
    std::uint32_t byte = 0;
    bool integrity = false;
    friend bool operator==(const UserCopyPosition&, const UserCopyPosition&) = default;
};
[[nodiscard]] constexpr UserCopyPosition decode_user_copy_offset(std::uint64_t offset) noexcept {
    const std::uint64_t position = (offset & ~abi::io_integrity_flag) - abi::io_buf_offset;
    return {.queue = static_cast<std::uint16_t>(position >> abi::qid_off & abi::qid_bits_mask),
            .tag = static_cast<std::uint16_t>(position >> abi::tag_off & abi::tag_bits_mask),
            .byte = static_cast<std::uint32_t>(position & abi::io_buf_bits_mask),
            .integrity = (offset & abi::io_integrity_flag) != 0};
}

// ---- Packed addresses (hot) --------------------------------------------------------------------

// Automatic registration: the SQE's addr for a fetch or a commit-and-fetch. With fallback a request
// whose registration failed arrives with io_f_need_reg_buf set, and must be looked at.
[[nodiscard]] constexpr std::uint64_t encode_auto_buf_reg(std::uint16_t index,
                                                          bool fallback) noexcept {
    const std::uint64_t flags = fallback ? abi::auto_buf_reg_fallback : 0;
    return std::uint64_t{index} | flags << 16;
}
[[nodiscard]] constexpr abi::AutoBufReg decode_auto_buf_reg(std::uint64_t addr) noexcept {
    return {.index = static_cast<std::uint16_t>(addr),
            .flags = static_cast<std::uint8_t>(addr >> 16),
            .reserved0 = static_cast<std::uint8_t>(addr >> 24),
            .reserved1 = static_cast<std::uint32_t>(addr >> 32)};
}

// A place in a registered shared memory buffer; valid only with io_f_shmem_zc.
struct ShmemAddress {
    std::uint16_t index = 0;   // as REG_BUF answered
    std::uint32_t offset = 0;  // bytes from the buffer's start
    friend bool operator==(const ShmemAddress&, const ShmemAddress&) = default;
};
[[nodiscard]] constexpr std::uint64_t encode_shmem_address(ShmemAddress address) noexcept {
    return std::uint64_t{address.index} << abi::shmem_zc_idx_off | address.offset;
}
[[nodiscard]] constexpr ShmemAddress decode_shmem_address(std::uint64_t addr) noexcept {
    return {
        .index = static_cast<std::uint16_t>(addr >> abi::shmem_zc_idx_off & abi::shmem_zc_idx_mask),
        .offset = static_cast<std::uint32_t>(addr & abi::shmem_zc_off_mask)};
}

// ---- Batches (hot) -----------------------------------------------------------------------------

// One tag of a batch prepare or commit. buf_addr and zone_lba travel only if the flags say so.
struct BatchElement {
    std::uint16_t tag = 0;
    std::uint16_t buf_index = 0;
    std::int32_t result = 0;
    std::uint64_t buf_addr = 0;
    std::uint64_t zone_lba = 0;
    friend bool operator==(const BatchElement&, const BatchElement&) = default;
};

inline constexpr std::size_t batch_element_bytes_max = 24;

// 8, 16 or 24: what one element takes with these abi::batch_f_* flags.
[[nodiscard]] constexpr std::uint8_t batch_element_bytes(std::uint16_t flags) noexcept {
    const unsigned optional = ((flags & abi::batch_f_has_buf_addr) != 0 ? 1U : 0U) +
                              ((flags & abi::batch_f_has_zone_lba) != 0 ? 1U : 0U);
    return static_cast<std::uint8_t>(sizeof(abi::ElemHeader) + std::size_t{8} * optional);
}

// Whether the driver takes the combination: no unknown flag, and no fallback (which is about
// registered buffers) together with buffer addresses.
[[nodiscard]] constexpr bool batch_flags_valid(std::uint16_t flags) noexcept {
    constexpr unsigned all =
        abi::batch_f_has_zone_lba | abi::batch_f_has_buf_addr | abi::batch_f_auto_buf_reg_fallback;
    constexpr unsigned both = abi::batch_f_has_buf_addr | abi::batch_f_auto_buf_reg_fallback;
    return (flags & ~all) == 0 && (flags & both) != both;
}

// Writes one element and answers its size. `out` has room for batch_element_bytes(flags).
inline std::size_t encode_batch_element(std::uint16_t flags, const BatchElement& element,
                                        std::byte* out) noexcept {
    const abi::ElemHeader header{
        .tag = element.tag, .buf_index = element.buf_index, .result = element.result};
    std::memcpy(out, &header, sizeof header);
    std::size_t at = sizeof header;
    if ((flags & abi::batch_f_has_buf_addr) != 0) {
        std::memcpy(out + at, &element.buf_addr, sizeof element.buf_addr);
        at += sizeof element.buf_addr;
    }
    if ((flags & abi::batch_f_has_zone_lba) != 0) {
        std::memcpy(out + at, &element.zone_lba, sizeof element.zone_lba);
        at += sizeof element.zone_lba;
    }
    return at;
}

// The inverse, for a model of the driver. Empty if `in` is too short.
[[nodiscard]] std::optional<BatchElement> decode_batch_element(
    std::uint16_t flags, std::span<const std::byte> in) noexcept;

// The command that carries `count` elements of one queue: prepare or commit.
[[nodiscard]] constexpr abi::BatchIo make_batch_io(std::uint16_t queue, std::uint16_t flags,
                                                   std::uint16_t count) noexcept {
    return {.q_id = queue,
            .flags = flags,
            .nr_elem = count,
            .elem_bytes = batch_element_bytes(flags),
            .reserved = 0,
            .reserved2 = 0};
}

// The multishot command that delivers tags: arrays of std::uint16_t in provided buffers.
[[nodiscard]] constexpr abi::BatchIo make_batch_fetch(std::uint16_t queue) noexcept {
    return {.q_id = queue,
            .flags = 0,
            .nr_elem = 0,
            .elem_bytes = sizeof(std::uint16_t),
            .reserved = 0,
            .reserved2 = 0};
}

// How many elements a batch commit took: res is its completion, bytes or a negative errno (none
// taken). Those after them must be committed again.
[[nodiscard]] constexpr std::uint32_t batch_committed(std::int32_t res,
                                                      std::uint16_t flags) noexcept {
    return res <= 0 ? 0 : static_cast<std::uint32_t>(res) / batch_element_bytes(flags);
}

// ---- Control commands --------------------------------------------------------------------------

struct Opcode {
    std::string_view name;     // as messages say it: "ADD_DEV"
    std::uint32_t ioctl = 0;   // the encoded opcode
    std::uint32_t legacy = 0;  // the opcode of kernels without f_cmd_ioctl_encode; 0: there is none
};

namespace control {
inline constexpr Opcode get_queue_affinity{"GET_QUEUE_AFFINITY", abi::u_cmd_get_queue_affinity,
                                           abi::cmd_get_queue_affinity};
inline constexpr Opcode get_dev_info{"GET_DEV_INFO", abi::u_cmd_get_dev_info,
                                     abi::cmd_get_dev_info};
inline constexpr Opcode add_dev{"ADD_DEV", abi::u_cmd_add_dev, abi::cmd_add_dev};
inline constexpr Opcode del_dev{"DEL_DEV", abi::u_cmd_del_dev, abi::cmd_del_dev};
inline constexpr Opcode start_dev{"START_DEV", abi::u_cmd_start_dev, abi::cmd_start_dev};
inline constexpr Opcode stop_dev{"STOP_DEV", abi::u_cmd_stop_dev, abi::cmd_stop_dev};
inline constexpr Opcode set_params{"SET_PARAMS", abi::u_cmd_set_params, abi::cmd_set_params};
inline constexpr Opcode get_params{"GET_PARAMS", abi::u_cmd_get_params, abi::cmd_get_params};
inline constexpr Opcode start_user_recovery{"START_USER_RECOVERY", abi::u_cmd_start_user_recovery,
                                            abi::cmd_start_user_recovery};
inline constexpr Opcode end_user_recovery{"END_USER_RECOVERY", abi::u_cmd_end_user_recovery,
                                          abi::cmd_end_user_recovery};
inline constexpr Opcode get_dev_info2{"GET_DEV_INFO2", abi::u_cmd_get_dev_info2,
                                      abi::cmd_get_dev_info2};
inline constexpr Opcode get_features{"GET_FEATURES", abi::u_cmd_get_features};
inline constexpr Opcode del_dev_async{"DEL_DEV_ASYNC", abi::u_cmd_del_dev_async};
inline constexpr Opcode update_size{"UPDATE_SIZE", abi::u_cmd_update_size};
inline constexpr Opcode quiesce_dev{"QUIESCE_DEV", abi::u_cmd_quiesce_dev};
inline constexpr Opcode try_stop_dev{"TRY_STOP_DEV", abi::u_cmd_try_stop_dev};
inline constexpr Opcode reg_buf{"REG_BUF", abi::u_cmd_reg_buf};
inline constexpr Opcode unreg_buf{"UNREG_BUF", abi::u_cmd_unreg_buf};
}  // namespace control

inline constexpr std::uint32_t any_device = 0xffff'ffff;  // ADD_DEV: the kernel chooses the id

// The argument of a control command; what a command does not use stays at its default.
struct ControlArguments {
    std::uint32_t dev_id = any_device;
    std::uint16_t queue_id = 0xffff;  // GET_QUEUE_AFFINITY only; all others demand 0xffff
    const void* buffer = nullptr;     // starts with the device path if dev_path_len is not 0
    std::uint16_t length = 0;         // of the buffer, the path included
    std::uint64_t data = 0;           // pid, sectors, timeout in ms, buffer index
    std::uint16_t dev_path_len = 0;   // with its NUL
};
[[nodiscard]] abi::CtrlCmd make_control_command(const ControlArguments& arguments) noexcept;

// The buffer of a command to an unprivileged device, and of every GET_DEV_INFO2: the path of its
// character device with a NUL, then the payload. dev_path_len is path.size() + 1.
[[nodiscard]] std::vector<std::byte> prepend_device_path(std::string_view path,
                                                         std::span<const std::byte> payload);

// ---- Device information ------------------------------------------------------------------------

// DevInfo as values. To ADD_DEV it is what is asked for; from the kernel, what is so.
struct DevSettings {
    std::uint32_t dev_id = any_device;
    std::uint16_t queues = 1;
    std::uint16_t depth = 256;
    std::uint32_t io_max_bytes = 512 * 1024;
    std::uint64_t features = 0;      // abi::f_*
    std::uint64_t server_flags = 0;  // the server's own; the kernel only keeps them
    std::uint16_t desc_size = sizeof(abi::IoDesc);
    // Set by the kernel:
    abi::DevState state = abi::DevState::dead;
    std::int32_t server_pid = -1;
    std::uint32_t owner_uid = 0;
    std::uint32_t owner_gid = 0;
    friend bool operator==(const DevSettings&, const DevSettings&) = default;
};
[[nodiscard]] abi::DevInfo encode_dev_info(const DevSettings& settings) noexcept;
// desc_size is right also for kernels that leave the field alone (before 7.3).
[[nodiscard]] DevSettings decode_dev_info(const abi::DevInfo& info) noexcept;

// "dead", "live", "quiesced", "fail_io"; "unknown" for a state this library does not know.
[[nodiscard]] std::string_view state_name(abi::DevState state) noexcept;

// ---- Geometry and parameters -------------------------------------------------------------------

// Whether the geometry makes a disk; if not, one line that names the value and what is allowed.
[[nodiscard]] std::expected<void, std::string> validate_geometry(const Geometry& geometry);

// What of the parameters is the engine's and not the backend's to say.
struct ParamsOptions {
    std::uint32_t io_max_bytes = 0;   // as ADD_DEV answered it; at least a page
    bool fua = true;                  // offer FUA with a volatile cache: the engine can emulate it
    std::uint32_t dma_alignment = 0;  // bytes, a power of two up to a page; 0: the kernel's 4
    std::optional<abi::ParamSegment> segment{};
};

// The parameters of a valid geometry. The driver accepts them if io_max_bytes is at least a page
// and the optional blocks are sound. A block that the running kernel does not know is ignored by
// it without a word: DMA_ALIGN and SEGMENT are known from 6.15 on, INTEGRITY from 7.0.
[[nodiscard]] abi::Params encode_params(const Geometry& geometry, const Capabilities& capabilities,
                                        const ParamsOptions& options) noexcept;

struct DeviceNumbers {
    std::uint32_t char_major = 0, char_minor = 0;
    std::uint32_t disk_major = 0, disk_minor = 0;  // 0 until the device is started
    friend bool operator==(const DeviceNumbers&, const DeviceNumbers&) = default;
};

// What GET_PARAMS said. Values that a kernel default stands for come back as that default.
struct DecodedParams {
    Geometry geometry;          // size 0: no parameters have been set yet
    Capabilities capabilities;  // fua: offered to the block layer
    std::uint32_t io_max_bytes = 0;
    std::uint32_t dma_alignment = 0;  // 0: not given
    std::optional<DeviceNumbers> numbers{};
    std::optional<abi::ParamSegment> segment{};
};

// `bytes` begins with an abi::Params, perhaps a shorter one of an older kernel: blocks that are
// not wholly inside are as if not given. EINVAL: no header, or a shift that no kernel accepts;
// EOVERFLOW: a size of 2^63 bytes or more.
[[nodiscard]] std::expected<DecodedParams, int> decode_params(std::span<const std::byte> bytes);

}  // namespace ashlar::kernel
