// LogReplayer: rebuilds, from what a log layer (open_log) recorded, the disk as a crash may have
// left it: at each moment that something became durable, with any of what was not durable yet.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar {

// A moment at which something became durable. What it was is all that a crash leaves for sure,
// until the next one: what a program was promised when the log had N bytes must be on the disk of
// every boundary whose `until` is more than N.
struct LogBoundary {
    enum class Kind : std::uint8_t { start, flush, fua };
    static constexpr std::uint64_t kEnd = INT64_MAX;
    Kind kind = Kind::start;     // start: before anything
    std::uint64_t sequence = 0;  // bytes of the log up to and with the answer
    std::uint64_t until = kEnd;  // the sequence of the next one; kEnd if it is the last
    // Writes, discards and write_zeroes that begin before `until`, and are not durable in whole.
    std::uint64_t unflushed = 0;
};

// Which log is replayed, and onto what.
struct ReplayOptions {
    std::string log{};  // path
    // Path of the file, or block device, that becomes the disk. Empty: nothing is written, for
    // looking at the boundaries.
    std::string image{};
    // The image exists and holds what the disk held when the log began. Else it is made, or is an
    // empty file, and all zeroes.
    bool over = false;
};

// Goes through a log once, from boundary to boundary; the image is brought from each to the next by
// what became durable between them. Nobody else writes the image meanwhile.
//
// What counts: a write that was answered before a flush was asked for is durable when that flush is
// answered; one with FUA when it is answered itself. Blocks are never torn. Writes that overlap
// while both are under way count in the order in which they began. A discarded range reads as
// zeroes.
//
// Thread: one at a time. Errors of all: EBADMSG (the log is damaged: an answer to what is not
// there), those of reading the log and writing the image.
class LogReplayer {
public:
    // Errors: EINVAL (no log, of another version, empty; an image of another size), EEXIST (an
    // image that is not empty, without `over`), those of open(2).
    [[nodiscard]] static Result<LogReplayer> open(const ReplayOptions& options);
    LogReplayer(LogReplayer&&) noexcept;
    LogReplayer& operator=(LogReplayer&&) noexcept;
    ~LogReplayer();

    [[nodiscard]] std::uint64_t disk_size() const noexcept;      // bytes
    [[nodiscard]] std::uint32_t logical_block() const noexcept;  // bytes
    // Bytes of the log that were read.
    [[nodiscard]] std::uint64_t sequence() const noexcept;
    // Bytes of the log, as far as it was read, that are no record: what was being written when a
    // server was killed or the log's disk was full. What was recorded there was never answered with
    // success.
    [[nodiscard]] const std::vector<Range>& gaps() const noexcept;

    // Makes the image the disk of the next boundary with nothing that is not durable, the first
    // time that of the start; none after the last, whose image stays.
    [[nodiscard]] Result<std::optional<LogBoundary>> advance();
    // Adds to the image some of what is not durable and begins before the boundary's `until`: each
    // write whole, not at all, or some of its blocks. The same seed gives the same at the same
    // boundary. The next call of advance, add_unflushed, complete or find_impossible takes it away.
    [[nodiscard]] Result<void> add_unflushed(std::uint64_t seed);
    // After the last boundary: makes the image the disk with everything that was answered.
    [[nodiscard]] Result<void> complete();
    // After the last boundary: the first byte of a block of `disk` (path) that no crash explains.
    // It is neither as durable, nor as any write since then. None: a crash may have left that disk.
    [[nodiscard]] Result<std::optional<std::uint64_t>> find_impossible(const std::string& disk);

private:
    class Replay;
    explicit LogReplayer(std::unique_ptr<Replay> replay) noexcept;
    std::unique_ptr<Replay> replay_;
};

}  // namespace ashlar
