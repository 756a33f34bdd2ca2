// The parameter blocks of the ublk interface: the part of abi.h that describes the disk. Include
// abi.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ashlar::kernel::abi {

inline constexpr std::uint32_t param_type_basic = 1U << 0;
inline constexpr std::uint32_t param_type_discard = 1U << 1;
inline constexpr std::uint32_t param_type_devt = 1U << 2;
inline constexpr std::uint32_t param_type_zoned = 1U << 3;
inline constexpr std::uint32_t param_type_dma_align = 1U << 4;
inline constexpr std::uint32_t param_type_segment = 1U << 5;
inline constexpr std::uint32_t param_type_integrity = 1U << 6;

inline constexpr std::uint32_t attr_read_only = 1U << 0;
inline constexpr std::uint32_t attr_rotational = 1U << 1;
inline constexpr std::uint32_t attr_volatile_cache = 1U << 2;
inline constexpr std::uint32_t attr_fua = 1U << 3;

struct ParamBasic {
    std::uint32_t attrs;  // attr_*
    std::uint8_t logical_bs_shift;
    std::uint8_t physical_bs_shift;
    std::uint8_t io_opt_shift;
    std::uint8_t io_min_shift;

    std::uint32_t max_sectors;  // of one request; a page or more, at most max_io_buf_bytes
    std::uint32_t chunk_sectors;

    std::uint64_t dev_sectors;
    std::uint64_t virt_boundary_mask;
};
static_assert(sizeof(ParamBasic) == 32 && std::is_standard_layout_v<ParamBasic>);
static_assert(offsetof(ParamBasic, attrs) == 0);
static_assert(offsetof(ParamBasic, logical_bs_shift) == 4);
static_assert(offsetof(ParamBasic, physical_bs_shift) == 5);
static_assert(offsetof(ParamBasic, io_opt_shift) == 6);
static_assert(offsetof(ParamBasic, io_min_shift) == 7);
static_assert(offsetof(ParamBasic, max_sectors) == 8);
static_assert(offsetof(ParamBasic, chunk_sectors) == 12);
static_assert(offsetof(ParamBasic, dev_sectors) == 16);
static_assert(offsetof(ParamBasic, virt_boundary_mask) == 24);

struct ParamDiscard {
    std::uint32_t discard_alignment;
    std::uint32_t discard_granularity;  // bytes; never 0 when the block is given
    std::uint32_t max_discard_sectors;
    std::uint32_t max_write_zeroes_sectors;
    std::uint16_t max_discard_segments;  // 1 when discard is offered
    std::uint16_t reserved0;
};
static_assert(sizeof(ParamDiscard) == 20 && std::is_standard_layout_v<ParamDiscard>);
static_assert(offsetof(ParamDiscard, discard_alignment) == 0);
static_assert(offsetof(ParamDiscard, discard_granularity) == 4);
static_assert(offsetof(ParamDiscard, max_discard_sectors) == 8);
static_assert(offsetof(ParamDiscard, max_write_zeroes_sectors) == 12);
static_assert(offsetof(ParamDiscard, max_discard_segments) == 16);
static_assert(offsetof(ParamDiscard, reserved0) == 18);

// Read only; the disk's numbers are 0 until the device is started.
struct ParamDevt {
    std::uint32_t char_major;
    std::uint32_t char_minor;
    std::uint32_t disk_major;
    std::uint32_t disk_minor;
};
static_assert(sizeof(ParamDevt) == 16 && std::is_standard_layout_v<ParamDevt>);
static_assert(offsetof(ParamDevt, char_major) == 0);
static_assert(offsetof(ParamDevt, char_minor) == 4);
static_assert(offsetof(ParamDevt, disk_major) == 8);
static_assert(offsetof(ParamDevt, disk_minor) == 12);

struct ParamZoned {
    std::uint32_t max_open_zones;
    std::uint32_t max_active_zones;
    std::uint32_t max_zone_append_sectors;  // not 0
    std::uint8_t reserved[20];
};
static_assert(sizeof(ParamZoned) == 32 && std::is_standard_layout_v<ParamZoned>);
static_assert(offsetof(ParamZoned, max_open_zones) == 0);
static_assert(offsetof(ParamZoned, max_active_zones) == 4);
static_assert(offsetof(ParamZoned, max_zone_append_sectors) == 8);
static_assert(offsetof(ParamZoned, reserved) == 12);

struct ParamDmaAlign {
    std::uint32_t alignment;  // a mask: alignment - 1, less than a page
    std::uint8_t pad[4];
};
static_assert(sizeof(ParamDmaAlign) == 8 && std::is_standard_layout_v<ParamDmaAlign>);
static_assert(offsetof(ParamDmaAlign, alignment) == 0);
static_assert(offsetof(ParamDmaAlign, pad) == 4);

inline constexpr std::uint32_t min_segment_size = 4096;

// All three are needed once the block is given.
struct ParamSegment {
    std::uint64_t seg_boundary_mask;  // a power of two of at least min_segment_size, less 1
    std::uint32_t max_segment_size;   // at least min_segment_size
    std::uint16_t max_segments;
    std::uint8_t pad[2];
};
static_assert(sizeof(ParamSegment) == 16 && std::is_standard_layout_v<ParamSegment>);
static_assert(offsetof(ParamSegment, seg_boundary_mask) == 0);
static_assert(offsetof(ParamSegment, max_segment_size) == 8);
static_assert(offsetof(ParamSegment, max_segments) == 12);
static_assert(offsetof(ParamSegment, pad) == 14);

struct ParamIntegrity {
    std::uint32_t flags;                   // pi_cap_*
    std::uint16_t max_integrity_segments;  // 0: no limit
    std::uint8_t interval_exp;             // bytes of data per tuple, as a shift
    std::uint8_t metadata_size;            // bytes per interval; not 0
    std::uint8_t pi_offset;
    std::uint8_t csum_type;  // pi_csum_*
    std::uint8_t tag_size;
    std::uint8_t pad[5];
};
static_assert(sizeof(ParamIntegrity) == 16 && std::is_standard_layout_v<ParamIntegrity>);
static_assert(offsetof(ParamIntegrity, flags) == 0);
static_assert(offsetof(ParamIntegrity, max_integrity_segments) == 4);
static_assert(offsetof(ParamIntegrity, interval_exp) == 6);
static_assert(offsetof(ParamIntegrity, metadata_size) == 7);
static_assert(offsetof(ParamIntegrity, pi_offset) == 8);
static_assert(offsetof(ParamIntegrity, csum_type) == 9);
static_assert(offsetof(ParamIntegrity, tag_size) == 10);
static_assert(offsetof(ParamIntegrity, pad) == 11);

// From the block layer's general header; the integrity block speaks in them.
inline constexpr std::uint32_t pi_cap_integrity = 1U << 0;
inline constexpr std::uint32_t pi_cap_reftag = 1U << 1;
inline constexpr std::uint8_t pi_csum_none = 0;
inline constexpr std::uint8_t pi_csum_ip = 1;
inline constexpr std::uint8_t pi_csum_crc16_t10dif = 2;
inline constexpr std::uint8_t pi_csum_crc64_nvme = 4;

struct Params {
    std::uint32_t len;    // bytes of this struct the caller knows; set for both SET and GET
    std::uint32_t types;  // param_type_*: which of the blocks below count
    ParamBasic basic;
    ParamDiscard discard;
    ParamDevt devt;
    ParamZoned zoned;
    ParamDmaAlign dma;
    ParamSegment seg;
    ParamIntegrity integrity;
};
static_assert(sizeof(Params) == 152 && std::is_standard_layout_v<Params>);
static_assert(offsetof(Params, len) == 0);
static_assert(offsetof(Params, types) == 4);
static_assert(offsetof(Params, basic) == 8);
static_assert(offsetof(Params, discard) == 40);
static_assert(offsetof(Params, devt) == 60);
static_assert(offsetof(Params, zoned) == 76);
static_assert(offsetof(Params, dma) == 108);
static_assert(offsetof(Params, seg) == 120);
static_assert(offsetof(Params, integrity) == 136);

// One entry of a zone report, from the zoned block devices' header.
struct Zone {
    std::uint64_t start;  // sectors of 512 bytes, here and below
    std::uint64_t len;    // 0 in the last entry: no more zones
    std::uint64_t wp;
    std::uint8_t type;  // zone_type_*
    std::uint8_t cond;  // zone_cond_*
    std::uint8_t non_seq;
    std::uint8_t reset;
    std::uint8_t resv[4];
    std::uint64_t capacity;
    std::uint8_t reserved[24];
};
static_assert(sizeof(Zone) == 64 && std::is_standard_layout_v<Zone>);
static_assert(offsetof(Zone, start) == 0);
static_assert(offsetof(Zone, len) == 8);
static_assert(offsetof(Zone, wp) == 16);
static_assert(offsetof(Zone, type) == 24);
static_assert(offsetof(Zone, cond) == 25);
static_assert(offsetof(Zone, non_seq) == 26);
static_assert(offsetof(Zone, reset) == 27);
static_assert(offsetof(Zone, resv) == 28);
static_assert(offsetof(Zone, capacity) == 32);
static_assert(offsetof(Zone, reserved) == 40);

inline constexpr std::uint8_t zone_type_conventional = 1;
inline constexpr std::uint8_t zone_type_seqwrite_req = 2;
inline constexpr std::uint8_t zone_type_seqwrite_pref = 3;
inline constexpr std::uint8_t zone_cond_not_wp = 0;
inline constexpr std::uint8_t zone_cond_empty = 1;
inline constexpr std::uint8_t zone_cond_imp_open = 2;
inline constexpr std::uint8_t zone_cond_exp_open = 3;
inline constexpr std::uint8_t zone_cond_closed = 4;
inline constexpr std::uint8_t zone_cond_readonly = 13;
inline constexpr std::uint8_t zone_cond_full = 14;
inline constexpr std::uint8_t zone_cond_offline = 15;

}  // namespace ashlar::kernel::abi
