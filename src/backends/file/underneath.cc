#include "backends/file/underneath.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <limits>
#include <utility>

#include "base/units.h"

namespace ashlar::file {
namespace {

constexpr std::uint32_t kBlockMin = 512;
constexpr std::uint32_t kBlockMax = 4096;           // of a disk of ours
constexpr std::uint32_t kUnitMax = 64 << 10;        // above it is a transfer size, not a block
constexpr std::uint32_t kPreferredMax = 256 << 20;  // as the driver has it

Error cannot(int code, std::string detail, std::string hint = {}) {
    return Error{.code = code, .detail = std::move(detail), .hint = std::move(hint)};
}

std::uint64_t read_number(const std::string& path) {
    std::ifstream file(path);
    std::uint64_t value = 0;
    file >> value;
    return file.fail() ? 0 : value;
}

std::string queue_directory(dev_t device) {
    const std::string here =
        "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
    // A partition has the queue of its disk, which is the directory it lies in.
    return access((here + "/partition").c_str(), F_OK) == 0 ? here + "/../queue" : here + "/queue";
}

template <class T>
T ask(int fd, unsigned long what) noexcept {
    T value = 0;
    return ioctl(fd, what, &value) == 0 ? value : 0;
}

// Kernels before 6.1 and several file systems do not say what direct I/O needs.
bool tell_direct_alignment(int fd, Underneath& underneath) {
    struct statx found{};
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) != 0) return false;
    if ((found.stx_mask & STATX_DIOALIGN) == 0) return false;
    underneath.alignment = found.stx_dio_offset_align;
    underneath.memory_alignment = found.stx_dio_mem_align;
    return true;
}

// By trying: whether one sector can be read.
std::uint32_t probe_direct_alignment(int fd) noexcept {
    alignas(kBlockMax) std::byte block[kBlockMax];
    const bool refused = pread(fd, block, kBlockMin, 0) < 0 && errno == EINVAL;
    return refused ? kBlockMax : kBlockMin;
}

// Whether space can be given back. The range asked for lies past the end, so nothing is there.
bool punches_holes(int fd, std::uint64_t size) noexcept {
    constexpr std::uint64_t kApart = 1 << 20;  // off the last block, however large
    if (size > std::numeric_limits<std::int64_t>::max() - 3 * kApart) return false;
    const auto beyond = static_cast<off_t>(round_up(size, kApart) + kApart);
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, kBlockMax) == 0;
}

Result<void> look_at_file(int fd, const struct stat& status, Underneath& underneath) {
    underneath.size = static_cast<std::uint64_t>(status.st_size);
    struct statfs system{};
    if (fstatfs(fd, &system) != 0) return std::unexpected(cannot(errno, "its file system"));
    underneath.allocation_unit = static_cast<std::uint64_t>(system.f_frsize);
    underneath.physical_block =
        underneath.allocation_unit <= kUnitMax ? static_cast<std::uint32_t>(system.f_frsize) : 0;
    underneath.queue = read_queue_limits(queue_directory(status.st_dev));
    underneath.punches_holes = underneath.writable && punches_holes(fd, underneath.size);
    if (!underneath.direct) return {};
    if (!tell_direct_alignment(fd, underneath)) {
        underneath.alignment = probe_direct_alignment(fd);
        underneath.memory_alignment = underneath.alignment;
    }
    return {};
}

Result<void> look_at_device(int fd, const struct stat& status, Underneath& underneath) {
    underneath.queue = read_queue_limits(queue_directory(status.st_rdev));
    if (underneath.queue.zoned) {
        return std::unexpected(cannot(EINVAL,
                                      "it is a zoned device, whose zones must be written "
                                      "in order; a disk is written anywhere"));
    }
    if (ioctl(fd, BLKGETSIZE64, &underneath.size) != 0) {
        return std::unexpected(cannot(errno, "its size"));
    }
    const auto block = static_cast<std::uint32_t>(std::max(ask<int>(fd, BLKSSZGET), 0));
    underneath.alignment = std::max(block, kBlockMin);
    underneath.physical_block = ask<unsigned>(fd, BLKPBSZGET);
    underneath.io_min = ask<unsigned>(fd, BLKIOMIN);
    underneath.io_opt = ask<unsigned>(fd, BLKIOOPT);
    if (underneath.direct) {
        Underneath told;
        underneath.memory_alignment = tell_direct_alignment(fd, told) && told.memory_alignment != 0
                                          ? told.memory_alignment
                                          : static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                                underneath.queue.dma_alignment, kBlockMax));
    } else if (underneath.alignment > kBlockMax) {
        // The page cache cuts blocks for reads and writes; nothing does for the other two.
        underneath.alignment = kBlockMax;
        underneath.queue.discard_max = 0;
        underneath.queue.write_zeroes_max = 0;
    }
    return {};
}

// Of the block layer's sizes: powers of two up to a limit, and never below `least`.
bool is_size_from(std::uint64_t bytes, std::uint64_t least) noexcept {
    return is_power_of_two(bytes) && bytes >= least && bytes <= kPreferredMax;
}

}  // namespace

QueueLimits read_queue_limits(const std::string& directory) {
    const auto number = [&](const char* name) { return read_number(directory + "/" + name); };
    QueueLimits limits{.rotational = number("rotational") != 0,
                       .discard_granularity = number("discard_granularity"),
                       .discard_max = number("discard_max_bytes"),
                       .write_zeroes_max = number("write_zeroes_max_bytes"),
                       .segments_max = number("max_segments"),
                       .segment_max = number("max_segment_size")};
    // A mask, so that 0 is a value: any byte.
    std::ifstream mask(directory + "/dma_alignment");
    if (mask >> limits.dma_alignment) ++limits.dma_alignment;
    std::ifstream zones(directory + "/zoned");
    std::string zoned;
    limits.zoned = zones >> zoned && zoned == "host-managed";
    return limits;
}

bool lies_in_memory(int fd) noexcept {
    struct stat status{};
    struct statfs system{};
    // The node of a block device lies in one (/dev); its content does not.
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    if (fstatfs(fd, &system) != 0) return false;
    const auto type = static_cast<unsigned long>(system.f_type);
    return type == TMPFS_MAGIC || type == RAMFS_MAGIC;
}

Result<Underneath> look_underneath(int fd, bool direct) {
    struct stat status{};
    if (fstat(fd, &status) != 0) return std::unexpected(cannot(errno, "its attributes"));
    Underneath underneath{.block_device = S_ISBLK(status.st_mode),
                          .direct = direct,
                          .writable = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY};
    auto looked = underneath.block_device ? look_at_device(fd, status, underneath)
                                          : look_at_file(fd, status, underneath);
    if (!looked) return std::unexpected(looked.error());
    if (!is_power_of_two(underneath.alignment)) {
        return std::unexpected(
            cannot(EINVAL, "its file system has no direct I/O for it", "leave direct off"));
    }
    if (underneath.alignment > kBlockMax) {
        return std::unexpected(cannot(EINVAL,
                                      "direct I/O needs blocks of " +
                                          std::to_string(underneath.alignment) +
                                          " bytes there; a disk has at most 4096",
                                      "leave direct off"));
    }
    underneath.alignment = std::max(underneath.alignment, kBlockMin);
    return underneath;
}

Geometry geometry_of(const Underneath& underneath, Range window, std::uint32_t logical_block) {
    const QueueLimits& queue = underneath.queue;
    Geometry geometry{.size = window.length,
                      .logical_block_size = logical_block,
                      .physical_block_size = std::max(kBlockMax, logical_block),
                      .rotational = queue.rotational};
    // Preferred sizes are of places underneath: they hold as far as the window begins at one.
    const auto holds = [&](std::uint64_t bytes, std::uint64_t least) {
        return is_size_from(bytes, least) && window.offset % bytes == 0;
    };
    // A file system's smaller blocks do not say that the device underneath has such.
    const std::uint32_t least = underneath.block_device ? logical_block : kBlockMax;
    if (is_size_from(underneath.physical_block, least)) {
        geometry.physical_block_size = underneath.physical_block;
    }
    if (window.offset % geometry.physical_block_size != 0) {
        geometry.physical_block_size = logical_block;
    }
    if (holds(underneath.io_min, geometry.physical_block_size)) geometry.io_min = underneath.io_min;
    if (holds(underneath.io_opt, geometry.physical_block_size)) geometry.io_opt = underneath.io_opt;

    const std::uint64_t granularity =
        underneath.block_device ? queue.discard_granularity : underneath.allocation_unit;
    if (is_size_from(granularity, logical_block)) {
        geometry.discard_granularity = static_cast<std::uint32_t>(granularity);
    }
    if (underneath.block_device) {
        geometry.discard_max = round_down(queue.discard_max, logical_block);
        geometry.write_zeroes_max = round_down(queue.write_zeroes_max, logical_block);
    }
    if (!underneath.direct) return geometry;

    // Only direct I/O takes the request's memory as it is. Segments are not needed to be right, the
    // block layer cuts what is too much; but where it cuts, io_uring needs a thread.
    if (is_power_of_two(underneath.memory_alignment) && underneath.memory_alignment <= kBlockMax) {
        geometry.dma_alignment = underneath.memory_alignment;
    }
    if (queue.segments_max <= std::numeric_limits<std::uint16_t>::max()) {
        geometry.segments_max = static_cast<std::uint16_t>(queue.segments_max);
    }
    if (queue.segment_max >= kBlockMax &&
        queue.segment_max <= std::numeric_limits<std::uint32_t>::max()) {
        geometry.segment_max = static_cast<std::uint32_t>(queue.segment_max);
    }
    return geometry;
}

}  // namespace ashlar::file
