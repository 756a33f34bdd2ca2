// What a disk's file lies on, and what that makes of the disk.
#pragma once

#include <cstdint>
#include <string>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar::file {

// A block device's limits, as sysfs tells them; zero for what it does not tell.
struct QueueLimits {
    bool rotational = false;
    bool zoned = false;  // must be written in order
    std::uint64_t discard_granularity = 0;
    std::uint64_t discard_max = 0;       // bytes; 0: it cannot discard
    std::uint64_t write_zeroes_max = 0;  // bytes; 0: it cannot write zeroes by itself
    std::uint64_t dma_alignment = 0;     // bytes
    std::uint64_t segments_max = 0;
    std::uint64_t segment_max = 0;  // bytes
};
// directory: a ".../queue" of sysfs; one that is not there gives zeroes.
[[nodiscard]] QueueLimits read_queue_limits(const std::string& directory);

// What is there to know about an open file, before anybody asks for a part of it.
struct Underneath {
    bool block_device = false;
    bool direct = false;
    bool writable = false;
    std::uint64_t size = 0;              // bytes
    std::uint32_t alignment = 512;       // of the offsets and lengths that it takes
    std::uint32_t memory_alignment = 0;  // of the data, direct only; 0: not known
    std::uint32_t physical_block = 0;    // as told, so perhaps odd; so are the next three
    std::uint32_t io_min = 0;
    std::uint32_t io_opt = 0;
    std::uint64_t allocation_unit = 0;  // bytes the file system takes and gives back at once
    bool punches_holes = false;         // a regular file whose space can be given back
    QueueLimits queue{};                // of the device, or of the one the file system is on
};

// Whether it is a regular file in a file system that is nothing but page cache (tmpfs, ramfs).
[[nodiscard]] bool lies_in_memory(int fd) noexcept;

// fd: a regular file or a block device; direct: O_DIRECT is on and shall count. Changes nothing in
// the file. Errors (without operation): EINVAL, when this cannot be a disk; those of fstat(2).
[[nodiscard]] Result<Underneath> look_underneath(int fd, bool direct);

// The part of it that is to be a disk. Requires a logical block of 512 to 4096, a power of two and
// at least underneath.alignment, and a size that is a multiple of it. Strange values of what lies
// underneath are left out, so that check_geometry always agrees.
[[nodiscard]] Geometry geometry_of(const Underneath& underneath, Range window,
                                   std::uint32_t logical_block);

}  // namespace ashlar::file
