// ZoneTable: the zones of a disk and what may be written to them: the state machine of zoned block
// devices, without the data. It lies in a file or in memory, and is right whenever the process
// ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <ashlar/backends.h>

#include "base/fd.h"

namespace ashlar::layers {

// Thread: any.
class ZoneTable {
public:
    // disk_size: a multiple of the zone size. options: valid (open_zoned checks them).
    // Errors: those of open(2) and mmap(2); EEXIST, ENOENT (create), EBUSY (another has it), EINVAL
    // (no table, or that of another disk).
    [[nodiscard]] static Result<std::unique_ptr<ZoneTable>> open(std::uint64_t disk_size,
                                                                 const ZonedOptions& options);

    [[nodiscard]] std::uint64_t zone_size() const noexcept { return zone_size_; }
    // Where the zone begins that has this byte.
    [[nodiscard]] std::uint64_t start_of(std::uint64_t offset) const noexcept {
        return offset & ~(zone_size_ - 1);
    }
    [[nodiscard]] bool is_conventional(std::uint64_t offset) const noexcept {
        return offset / zone_size_ < conventional_;
    }
    // What the zone of this byte has from there on has never been written.
    [[nodiscard]] std::uint64_t written_end(std::uint64_t offset) const noexcept;

    // The write pointer moves on, and the data is to follow. They answer 0 or an errno: EIO (not at
    // the write pointer, beyond the capacity, or a reset is under way), ETOOMANYREFS and EOVERFLOW
    // (no more zones may be open, or active).
    [[nodiscard]] int begin_write(Range range);
    // Answers where.
    [[nodiscard]] std::expected<std::uint64_t, int> begin_append(std::uint64_t start,
                                                                 std::uint64_t length);
    // The data did not follow. Before end_write.
    void write_failed(Range range);
    // Once for each that was let begin, whatever became of it. offset: any of the zone.
    void end_write(std::uint64_t offset) noexcept;

    // What a reset throws away must not be data that was written after it, nor may a write that
    // began before it end after others that began later. So it is: begin_reset, from where on the
    // zone takes no writes; wait until none is under way; reset_zone; throw the data away;
    // end_reset, in any case. start: of a zone that is not conventional.
    // begin_reset answers false if another reset of the zone is under way.
    [[nodiscard]] bool begin_reset(std::uint64_t start);
    [[nodiscard]] bool is_being_written(std::uint64_t start) const noexcept;
    void end_reset(std::uint64_t start);
    // Nothing is written in it, and it is not open.
    [[nodiscard]] bool is_empty(std::uint64_t start) const;

    // start: where the zone begins. They answer 0 or an errno; EIO: of a conventional zone.
    [[nodiscard]] int open_zone(std::uint64_t start);
    [[nodiscard]] int close_zone(std::uint64_t start);
    [[nodiscard]] int finish_zone(std::uint64_t start);
    [[nodiscard]] int reset_zone(std::uint64_t start);

    // The zones from the one on that has this byte; answers how many.
    [[nodiscard]] std::size_t report(std::uint64_t offset, std::span<Zone> zones) const;

    // What a flush has to sync; -1 if there is nothing.
    [[nodiscard]] int file() const noexcept { return file_.get(); }

private:
    // As it lies in the file.
    struct Entry {
        std::uint64_t written;     // bytes from the zone's start
        std::uint64_t last_write;  // where the last write began, the same way
        std::uint64_t condition;   // ZoneCondition
    };
    struct Header;
    // What goes on in a zone, as long as this process lives.
    struct Traffic {
        std::atomic<std::uint32_t> writes{0};  // under way; more only under mutex_
        bool resetting = false;                // guarded by mutex_
    };

    ZoneTable(std::uint64_t disk_size, const ZonedOptions& options) noexcept;
    Result<bool> open_file(const ZonedOptions& options, std::size_t bytes);
    Result<void> map(const ZonedOptions& options);
    void make_empty();
    Result<void> check_header() const;
    void settle();
    [[nodiscard]] Entry& entry_of(std::uint64_t offset) const noexcept;
    [[nodiscard]] Traffic& traffic_of(std::uint64_t offset) noexcept {
        return traffic_[offset / zone_size_];
    }
    [[nodiscard]] static ZoneCondition condition_of(const Entry& entry) noexcept;
    void change(Entry& entry, ZoneCondition condition) noexcept;
    [[nodiscard]] int make_open(Entry& entry, ZoneCondition condition) noexcept;
    [[nodiscard]] bool close_another() noexcept;
    [[nodiscard]] int advance(Entry& entry, std::uint64_t from, std::uint64_t length) noexcept;

    const std::uint64_t disk_size_;
    const std::uint64_t zone_size_;
    const std::uint64_t capacity_;
    const std::uint64_t conventional_;  // so many at the beginning
    const std::uint32_t open_max_;
    const std::uint32_t active_max_;
    Fd file_;
    Mapping memory_;
    std::span<Entry> entries_;
    std::vector<Traffic> traffic_;
    mutable std::mutex mutex_;  // guards what follows, and the entries
    std::uint32_t open_ = 0;
    std::uint32_t active_ = 0;
    std::size_t next_to_close_ = 0;
};

}  // namespace ashlar::layers
