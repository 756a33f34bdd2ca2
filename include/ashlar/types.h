// Trivial values shared by the whole library. All offsets and lengths are bytes, never sectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

namespace ashlar {

// The N of /dev/ublkbN and /dev/ublkcN. Range: 0 to 1048575 (the kernel's minor numbers).
using DeviceId = std::uint32_t;

// What the block layer asks for. The zone operations exist for zoned devices only; `unknown` is
// what this library does not know, is refused by the engine, and never reaches a session.
enum class Op : std::uint8_t {
    read,
    write,
    flush,    // everything completed before this request began becomes durable
    discard,  // the content of the range is no longer needed; reading it back may give anything
    write_zeroes,  // the range reads back as zeroes
    zone_open,
    zone_close,
    zone_finish,
    zone_append,
    zone_reset,
    zone_reset_all,
    report_zones,
    unknown,
};
inline constexpr std::size_t kOpCount = static_cast<std::size_t>(Op::unknown) + 1;

// "read", "write_zeroes", ...: the name used in messages, JSON and metrics.
[[nodiscard]] constexpr std::string_view name(Op op) noexcept {
    switch (op) {
        case Op::read: return "read";
        case Op::write: return "write";
        case Op::flush: return "flush";
        case Op::discard: return "discard";
        case Op::write_zeroes: return "write_zeroes";
        case Op::zone_open: return "zone_open";
        case Op::zone_close: return "zone_close";
        case Op::zone_finish: return "zone_finish";
        case Op::zone_append: return "zone_append";
        case Op::zone_reset: return "zone_reset";
        case Op::zone_reset_all: return "zone_reset_all";
        case Op::report_zones: return "report_zones";
        case Op::unknown: break;
    }
    return "unknown";
}

// Bytes [offset, offset + length) of a device.
struct Range {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
};

// Where the bytes of an I/O lie: in memory, or in a buffer registered with the queue's ring, which
// only the kernel can reach and only Io's operations accept.
class Buffer {
public:
    constexpr Buffer() noexcept = default;  // no bytes
    // Owner of the bytes: the caller.
    static Buffer memory(std::byte* data, std::uint32_t length) noexcept {
        return {reinterpret_cast<std::uintptr_t>(data), length, kMemory};
    }
    // Bytes [offset, offset + length) of the registered buffer `index`.
    static constexpr Buffer registered(std::uint16_t index, std::uint32_t offset,
                                       std::uint32_t length) noexcept {
        return {offset, length, index};
    }

    [[nodiscard]] constexpr bool is_memory() const noexcept { return index_ == kMemory; }
    [[nodiscard]] constexpr std::uint32_t length() const noexcept { return length_; }
    // Requires is_memory().
    [[nodiscard]] std::byte* data() const noexcept {
        return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address_));
    }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data(), length_}; }
    // The registered index. Requires !is_memory().
    [[nodiscard]] constexpr std::uint16_t index() const noexcept {
        return static_cast<std::uint16_t>(index_);
    }
    // The memory's address, or the offset in the registered buffer: as io_uring wants it.
    [[nodiscard]] constexpr std::uint64_t address() const noexcept { return address_; }
    // Requires from + length <= length().
    [[nodiscard]] constexpr Buffer part(std::uint32_t from, std::uint32_t length) const noexcept {
        return {address_ + from, length, index_};
    }

private:
    static constexpr std::int32_t kMemory = -1;
    constexpr Buffer(std::uint64_t address, std::uint32_t length, std::int32_t index) noexcept
        : address_(address), length_(length), index_(index) {}

    std::uint64_t address_ = 0;
    std::uint32_t length_ = 0;
    std::int32_t index_ = kMemory;
};
static_assert(sizeof(Buffer) == 16 && std::is_trivially_copyable_v<Buffer>);

// ---- Zoned disks -------------------------------------------------------------------------------

// How a zoned disk is divided: all zones are of one size, and those that are not conventional are
// written from their start on. A size of 0: the disk is not zoned. See the kernel's zoned block
// devices (linux/blkzoned.h); there are such disks since kernel 6.6.
struct Zones {
    std::uint64_t size = 0;        // bytes, a power of two, that divides the disk's size
    std::uint32_t open_max = 0;    // zones open for writing at once; 0: any number
    std::uint32_t active_max = 0;  // the same of those open or closed
};

enum class ZoneType : std::uint8_t {
    conventional = 1,  // may be written anywhere
    sequential = 2,    // may only be written where its write pointer is
};
enum class ZoneCondition : std::uint8_t {
    not_write_pointer = 0,  // a conventional zone
    empty = 1,
    implicitly_open = 2,  // by a write
    explicitly_open = 3,  // by zone_open
    closed = 4,           // partly written, and not open
    read_only = 13,
    full = 14,
    offline = 15,
};

// One zone of a report.
struct Zone {
    std::uint64_t start = 0;          // bytes
    std::uint64_t length = 0;         // bytes; Zones::size
    std::uint64_t write_pointer = 0;  // the byte that is written next; a full zone has none
    std::uint64_t capacity = 0;       // bytes that can be written, from its start on
    ZoneType type = ZoneType::sequential;
    ZoneCondition condition = ZoneCondition::empty;
    std::byte reserved[30] = {};
};
static_assert(sizeof(Zone) == 64 && std::is_trivially_copyable_v<Zone>);

// ---- Metadata ----------------------------------------------------------------------------------

// What the block layer computes of the data, and checks when it is read.
enum class Checksum : std::uint8_t {
    none,          // metadata is whatever the user of the disk makes it
    ip,            // 8 bytes: T10 protection information with the checksum of IP
    crc16_t10dif,  // 8 bytes: T10 protection information with a CRC of 16 bits
    crc64_nvme,    // 16 bytes: the same as of NVMe, with a CRC of 64 bits
};

// Bytes that belong to each block and travel with it. A size of 0: there are none. Since kernel
// 7.0, on the user copy path only. See UBLK_PARAM_TYPE_INTEGRITY.
struct Metadata {
    std::uint8_t size = 0;       // bytes for each interval; at least the checksum's
    std::uint32_t interval = 0;  // bytes of data, a power of two, 512 to the logical block size
    Checksum checksum = Checksum::none;
    bool reference_tag = false;  // the checksum's tuple also has, and checks, the block's number
    [[nodiscard]] constexpr std::uint64_t bytes_for(std::uint64_t length) const noexcept {
        return interval == 0 ? 0 : length / interval * size;
    }
    friend constexpr bool operator==(const Metadata&, const Metadata&) noexcept = default;
};

// ---- Requests ----------------------------------------------------------------------------------

// One request of the block layer, decoded. Valid from Session::serve until its result is given.
struct Request {
    // First byte, a multiple of the logical block size; 0 for flush. Of a zone operation and
    // zone_append: where the zone starts. Of report_zones: where the first zone of the report does.
    std::uint64_t offset = 0;
    // Bytes, a multiple of the logical block size; 0 for flush. Of report_zones: of the report.
    std::uint64_t length = 0;
    Op op = Op::read;
    // write: durable before it completes. Only for a backend whose Capabilities::fua says that it
    // does this itself; for others the engine adds a flush.
    bool fua = false;
    bool no_unmap = false;  // write_zeroes: the blocks must stay allocated
    std::uint16_t queue = 0;
    std::uint16_t tag = 0;
    // read, report_zones: to be filled; write, zone_append: to be stored; length bytes; else empty
    Buffer buffer{};
    // Geometry::metadata: the same for the metadata, Metadata::bytes_for(length) bytes of memory.
    // Empty when the request has none: what a write of that kind stores has not been computed.
    Buffer metadata{};

    // The data of a request whose buffer is memory; empty for requests without data.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return buffer.bytes(); }
    // The report of report_zones, as many zones as there is room for; the result is how many of
    // them the session filled in, one after the other, at least one.
    [[nodiscard]] std::span<Zone> zones() const noexcept {
        return {reinterpret_cast<Zone*>(buffer.data()), length / sizeof(Zone)};
    }
};
static_assert(std::is_trivially_copyable_v<Request>);

// What a backend looks like as a disk. A zero means "the engine's default".
struct Geometry {
    std::uint64_t size = 0;                    // bytes; a multiple of logical_block_size, not 0
    std::uint32_t logical_block_size = 512;    // 512 to 4096, a power of two
    std::uint32_t physical_block_size = 4096;  // a power of two, >= logical_block_size, <= 256 MiB
    std::uint32_t io_min = 0;                  // preferred smallest I/O; default: physical block
    std::uint32_t io_opt = 0;                  // preferred I/O, a power of two; default: none
    std::uint32_t chunk = 0;                   // no I/O crosses a multiple of this; default: none
    std::uint32_t discard_granularity = 0;     // default: the larger of 4096 and logical block
    std::uint64_t discard_max = 0;             // bytes of one discard; default: 1 GiB
    std::uint64_t write_zeroes_max = 0;        // bytes of one write_zeroes; default: 1 GiB
    bool rotational = false;
    // What the data of a request looks like; zero copy hands it to the backend as it is. Older
    // kernels (before 6.15) ignore these, and have no zero copy.
    std::uint32_t dma_alignment = 0;     // bytes, a power of two up to 4096; default: 4
    std::uint32_t segment_max = 0;       // bytes of one segment, at least 4096; default: no limit
    std::uint16_t segments_max = 0;      // segments of one request; default: no limit
    std::uint64_t segment_boundary = 0;  // no segment crosses a multiple; a power of two, >= 4096
    Zones zones{};                       // chunk is then not used
    Metadata metadata{};
};

// What a backend offers beyond reading and writing. The device advertises exactly this.
struct Capabilities {
    bool flush = false;  // has a volatile cache, and flush makes it durable
    bool fua = false;    // honours Request::fua itself; else the engine writes, then flushes
    bool discard = false;
    bool write_zeroes = false;
    bool read_only = false;  // never asked to write
};

// What a session does with the data of reads and writes. It decides which data paths there are.
enum class DataAccess : std::uint8_t {
    sees,    // looks at it (compresses, checks): Request::buffer is always memory
    routes,  // only hands Request::buffer to Io: it may be a registered buffer (zero copy)
    holds,   // sees, and keeps the data in memory of its own, which Session::locate names
};

}  // namespace ashlar
