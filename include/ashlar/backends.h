// The backends that come with Ashlar.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/backend.h>

namespace ashlar {

// A disk of nothing: what it is said to be, and what reads give.
struct NullOptions {
    Geometry geometry{};  // size is required
    // Reads give zeroes; else whatever the buffer held: of this device, or with zero copy whatever
    // the reader had there, which for the page cache is memory of anyone. For measuring only.
    bool fill = true;
};
// Reads zeroes, drops writes. Without fill it touches no data, which measures the engine alone.
// Errors: EINVAL (geometry).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_null(const NullOptions& options);

// How large a disk in memory is, and where its bytes are.
struct MemoryOptions {
    Geometry geometry{};     // size is required
    bool hugepages = false;  // ask for transparent huge pages (madvise(2), MADV_HUGEPAGE)
    // A memory file (tmpfs, hugetlbfs or memfd) for the bytes, which then outlive the process. Made
    // if it is not there; else its size must be the disk's. While it is a disk nobody else may
    // write to it: what was not written through the disk reads as zeroes. An advisory lock
    // (flock(2)) keeps a second disk out.
    std::string file{};
};
// A sparse disk in memory: a page is taken when it is first written, never by reading, and given
// back by discard and write_zeroes. (On hugetlbfs, reading may take what an earlier process left
// unwritten.) Without a file gone with the process. No lock is shared between queues.
// Errors: EINVAL (geometry; the file's size or kind), EBUSY (another disk is in the file), ENOMEM
// (address space), those of open(2).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_memory(const MemoryOptions& options);

// Which file is the disk, or which part of it, and how it is opened.
struct FileOptions {
    std::string path{};                     // of a regular file or a block device
    std::uint64_t offset = 0;               // bytes; where in the file the disk begins
    std::optional<std::uint64_t> length{};  // bytes of the disk; default: to the file's end
    bool direct = false;                    // past the page cache (O_DIRECT)
    bool read_only = false;                 // also when the file may only be read
    bool create = false;  // make the file, which must not exist, with `size` bytes
    std::uint64_t size = 0;
    // Take the space of the whole disk now and keep it: no ENOSPC later, and no discard. Regular
    // files only.
    bool preallocate = false;
    std::uint32_t logical_block_size = 0;  // default: what lies underneath needs, at least 512
};
// A disk in a file or on a block device. Geometry, limits, and whether discard and write_zeroes
// exist, come from what lies underneath. A flush ends when fdatasync(2) has; flushes that wait
// together share one, and after one has failed all fail with its errno, because data was lost: open
// the disk again. Holds an advisory lock (flock(2)) that keeps a second writer out. Resized, a disk
// that ends with its file takes the file's end along; any other shows what lies there.
// Errors: those of open(2); EBUSY (locked by another), EINVAL (size, window, alignment), EEXIST.
[[nodiscard]] Result<std::shared_ptr<Backend>> open_file(const FileOptions& options);

// ---- Backends made of backends -----------------------------------------------------------------

using Backends = std::vector<std::shared_ptr<Backend>>;

// How data is spread over the members.
struct StripeOptions {
    std::uint32_t chunk = 65536;  // bytes on one member before the next; a power of two, >= 4096
};
// RAID 0: chunk after chunk on one member after another, each as far as the smallest reaches.
// Errors: EINVAL (not 2 to 64 members, one of them twice, or one smaller than a chunk).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_stripe(Backends members,
                                                           const StripeOptions& options);
// One member after the other. Errors: EINVAL (not 2 to 64 members, or one of them twice).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_linear(Backends members);

// How a disk is cut into zones.
struct ZonedOptions {
    std::uint64_t zone_size = 256 << 20;  // bytes, a power of two of at least 4096
    std::uint64_t capacity = 0;      // bytes of a sequential zone that can be written; default: all
    std::uint64_t conventional = 0;  // so many zones at the beginning may be written anywhere
    std::uint32_t open_max = 0;      // zones open at once; 0: any number
    std::uint32_t active_max = 0;    // the same of those open or closed
    // The file of the write pointers, without which `inner` is worth nothing. Empty: in memory,
    // gone with the process. A flush makes it durable with the data; after one that failed all fail
    // with its errno, because write pointers were lost.
    std::string state{};
    bool create = false;  // make that file, which must not exist; all zones are empty then
};
// A zoned disk (host-managed) of a backend, as far as whole zones reach. What was never written in
// a zone reads as zeroes. A write that is not at the write pointer fails with EIO; one that would
// open a zone too many with ETOOMANYREFS, one too many active with EOVERFLOW. A reset waits for
// writes to its zone that began before it, and discards, where `inner` can; until it is answered
// writes fail with EIO. Holds an advisory lock (flock(2)) on the state.
// Errors: EINVAL (sizes; zones that are not within a chunk of `inner`), EEXIST, ENOENT (create),
// EBUSY (another server has the state), those of open(2).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_zoned(std::shared_ptr<Backend> inner,
                                                          const ZonedOptions& options);

// What is kept with each block, and where.
struct MetadataOptions {
    Metadata format{};    // an interval of 0: the logical block size
    std::string path{};   // of the file it is kept in; empty: in memory, gone with the process
    bool create = false;  // make that file, which must not exist
};
// Keeps metadata with each block (Geometry::metadata): with a checksum, what the block layer wrote
// is checked when it is read, and a block that has changed meanwhile fails with EILSEQ. Blocks
// whose checksum was never written, or was discarded, are not checked. A request waits for others
// under way that change its blocks, or read what it changes, so that each block is read with what
// was written with it. On the medium data and metadata are not written as one: a loss of power may
// leave blocks whose last write was not flushed unreadable until they are written again. After a
// flush that failed to make the file durable all fail with its errno. Holds an advisory lock
// (flock(2)) on the file. Kernel 7.0. Errors: EINVAL (the format; the file's size), EEXIST, ENOENT
// (create), EBUSY, those of open(2).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_metadata(std::shared_ptr<Backend> inner,
                                                             const MetadataOptions& options);

// How long a request is held before it goes on.
struct Latency {
    enum class Shape : std::uint8_t {
        fixed,        // always `mean`
        uniform,      // mean - spread to mean + spread
        normal,       // about `mean`, standard deviation `spread`, never negative
        exponential,  // about `mean`, with a long tail
    };
    Shape shape = Shape::fixed;
    std::chrono::nanoseconds mean{0};
    std::chrono::nanoseconds spread{0};
};
// seed: of the spread, which is drawn for each request; the same seed, the same delays.
struct DelayOptions {
    Latency read{}, write{}, flush{}, discard{}, write_zeroes{};
    std::uint64_t seed = 1;
};
// Delays requests by operation; they overlap, so depth is not lost. Errors: EINVAL (a mean or
// spread of more than an hour; a spread where the shape has none, or more than the mean if it is
// uniform).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_delay(std::shared_ptr<Backend> inner,
                                                          const DelayOptions& options);

// One thing that goes wrong with some requests.
struct Fault {
    enum class Kind : std::uint8_t {
        error,      // answers `code`, the request does not reach the disk
        torn,       // write of two blocks or more: a prefix of whole blocks is written, then `code`
        lost,       // write, discard, write_zeroes: answers success and does nothing
        power_cut,  // once: from then on every request fails with `code`
    };
    Kind kind = Kind::error;
    int code = 5;                       // errno; EIO
    std::vector<Op> operations{};       // empty: all that the kind applies to
    std::optional<Range> range{};       // only requests that touch it
    double rate = 1.0;                  // of those; 0 to 1
    std::chrono::nanoseconds after{0};  // not before that long after open_fault
};
// What shall go wrong; nothing else does.
struct FaultOptions {
    std::vector<Fault> faults{};
    // Writes and write_zeroes stay in memory until a flush (discards do not): a power cut, or the
    // death of the process, loses those that were not flushed. The disk then has a volatile cache
    // whether or not `inner` has.
    bool volatile_cache = false;
    std::uint64_t seed = 1;
};
// Errors: EINVAL (a rate outside 0 to 1, no errno, an operation that the kind has no use for).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_fault(std::shared_ptr<Backend> inner,
                                                          const FaultOptions& options);

// Where the log is kept; ashlar/log_replayer.h reads it.
struct LogOptions {
    std::string path{};   // of the log, a regular file
    bool create = false;  // make it; it must not exist. Else it is continued
};
// Records every write, discard, write_zeroes and flush, when it begins and when it is answered, for
// LogReplayer (log_replayer.h) to rebuild the disk as a crash may have left it. A flush is always
// offered, so that what was promised is known also of a disk without a cache. Each request waits
// for its records; one whose records cannot be written fails with that errno. A write's data must
// not change while it is under way, as a program can make it in shared memory. The log is not
// synced: it outlives the process, not the machine. Holds an advisory lock (flock(2)) on it.
// Errors: EEXIST (create), EBUSY (another writes it), EINVAL (no log, of another version, or of
// another disk), those of open(2).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_log(std::shared_ptr<Backend> inner,
                                                        const LogOptions& options);

}  // namespace ashlar
