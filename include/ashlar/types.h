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

// One request of the block layer, decoded. Valid from Session::serve until its result is given.
struct Request {
    std::uint64_t offset = 0;  // first byte; a multiple of the logical block size; 0 for flush
    std::uint64_t length = 0;  // bytes; a multiple of the logical block size; 0 for flush
    Op op = Op::read;
    bool fua = false;  // write: durable before it completes (the engine emulates it if need be)
    bool no_unmap = false;  // write_zeroes: the blocks must stay allocated
    std::uint16_t queue = 0;
    std::uint16_t tag = 0;
    std::byte* data = nullptr;  // read: to be filled; write: to be stored; length bytes; else null

    // The data as a span; empty for requests without data.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept {
        return {data, data == nullptr ? 0 : static_cast<std::size_t>(length)};
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
};

// What a backend offers beyond reading and writing. The device advertises exactly this.
struct Capabilities {
    bool flush = false;  // has a volatile cache, and flush makes it durable
    bool fua = false;    // honours Request::fua itself; else the engine writes, then flushes
    bool discard = false;
    bool write_zeroes = false;
    bool read_only = false;  // never asked to write
};

}  // namespace ashlar
