#include "layers/zoned/zone_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/file_lock.h"
#include "base/new_file.h"

namespace ashlar::layers {

// At the start of the file; the entries come a page later.
struct ZoneTable::Header {
    char magic[8];
    std::uint64_t disk_size;
    std::uint64_t zone_size;
    std::uint64_t capacity;
    std::uint64_t conventional;
    friend bool operator==(const Header&, const Header&) noexcept = default;
};

namespace {

constexpr char kMagic[8] = {'A', 's', 'h', 'Z', 'o', 'n', 'e', '1'};
constexpr std::size_t kHeaderBytes = 4096;

std::unexpected<Error> refuse(const std::string& path, int code, std::string detail = {},
                              std::string hint = {}) {
    return std::unexpected(Error{.operation = "open the zones in " + path,
                                 .code = code,
                                 .detail = std::move(detail),
                                 .hint = std::move(hint)});
}

bool is_open(ZoneCondition condition) noexcept {
    return condition == ZoneCondition::implicitly_open ||
           condition == ZoneCondition::explicitly_open;
}
bool is_active(ZoneCondition condition) noexcept {
    return is_open(condition) || condition == ZoneCondition::closed;
}

}  // namespace

// ---- Opening -----------------------------------------------------------------------------------

ZoneTable::ZoneTable(std::uint64_t disk_size, const ZonedOptions& options) noexcept
    : disk_size_(disk_size),
      zone_size_(options.zone_size),
      capacity_(options.capacity != 0 ? options.capacity : options.zone_size),
      conventional_(options.conventional),
      open_max_(options.open_max),
      active_max_(options.active_max) {}

Result<std::unique_ptr<ZoneTable>> ZoneTable::open(std::uint64_t disk_size,
                                                   const ZonedOptions& options) {
    std::unique_ptr<ZoneTable> table(new ZoneTable(disk_size, options));
    if (auto mapped = table->map(options); !mapped) {
        // With create a file that was there already is not opened.
        if (options.create && table->file_.valid()) unlink(options.state.c_str());
        return std::unexpected(mapped.error());
    }
    table->settle();
    return table;
}

// Answers whether it is new.
Result<bool> ZoneTable::open_file(const ZonedOptions& options, std::size_t bytes) {
    const std::string& path = options.state;
    const int create = options.create ? O_CREAT | O_EXCL : 0;
    file_ = Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | create, 0600));
    if (!file_.valid()) {
        return refuse(
            path, errno, {},
            errno == ENOENT ? "create makes them, for a disk with nothing on it" : std::string());
    }
    if (const int code = lock_file(file_.get()); code != 0) {
        return refuse(path, code,
                      code == EBUSY ? "another server has them" : "it cannot be locked (flock)");
    }
    struct stat status{};
    if (fstat(file_.get(), &status) != 0) return refuse(path, errno);
    if (status.st_size != 0) {
        if (static_cast<std::uint64_t>(status.st_size) == bytes) return false;
        return refuse(path, EINVAL, "they are those of another disk");
    }
    const int code = posix_fallocate(file_.get(), 0, static_cast<off_t>(bytes));
    if (code != 0) return refuse(path, code);
    return true;
}

Result<void> ZoneTable::map(const ZonedOptions& options) {
    const std::string& path = options.state;
    const std::size_t count = disk_size_ / zone_size_;
    const std::size_t bytes = kHeaderBytes + count * sizeof(Entry);
    bool is_new = true;
    if (!path.empty()) {
        const auto opened = open_file(options, bytes);
        if (!opened) return std::unexpected(opened.error());
        is_new = *opened;
    }
    const int flags = path.empty() ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file_.get(), 0);
    if (memory == MAP_FAILED) return refuse(path, errno);
    memory_ = Mapping(memory, bytes);
    entries_ = {reinterpret_cast<Entry*>(memory_.data() + kHeaderBytes), count};
    traffic_ = std::vector<Traffic>(count);
    if (!is_new) return check_header();
    make_empty();
    if (path.empty()) return {};
    if (const int code = make_durable(file_.get(), path); code != 0) {
        return refuse(path, code, "they were made, but cannot be made durable");
    }
    return {};
}

void ZoneTable::make_empty() {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        const bool conventional = i < conventional_;
        entries_[i].condition = static_cast<std::uint64_t>(
            conventional ? ZoneCondition::not_write_pointer : ZoneCondition::empty);
    }
    Header header{.magic = {},
                  .disk_size = disk_size_,
                  .zone_size = zone_size_,
                  .capacity = capacity_,
                  .conventional = conventional_};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    std::memcpy(memory_.data(), &header, sizeof header);
}

Result<void> ZoneTable::check_header() const {
    Header header{};
    std::memcpy(&header, memory_.data(), sizeof header);
    Header expected{.magic = {},
                    .disk_size = disk_size_,
                    .zone_size = zone_size_,
                    .capacity = capacity_,
                    .conventional = conventional_};
    std::memcpy(expected.magic, kMagic, sizeof kMagic);
    if (header == expected) return {};
    return std::unexpected(Error{
        .operation = "open the zones",
        .code = EINVAL,
        .detail = "the file has none, or those of a disk with other sizes",
        .hint = "give the size, zone size, capacity and conventional zones it was made with"});
}

// After the end of a server no zone is open, as after a loss of power.
void ZoneTable::settle() {
    for (std::size_t i = conventional_; i < entries_.size(); ++i) {
        Entry& entry = entries_[i];
        entry.written = std::min(entry.written, capacity_);
        auto condition = condition_of(entry);
        if (condition != ZoneCondition::full) {
            condition = entry.written == 0 ? ZoneCondition::empty : ZoneCondition::closed;
            if (entry.written == capacity_) condition = ZoneCondition::full;
        }
        entry.condition = static_cast<std::uint64_t>(condition);
        if (is_active(condition)) ++active_;
    }
}

// ---- Conditions --------------------------------------------------------------------------------

ZoneTable::Entry& ZoneTable::entry_of(std::uint64_t offset) const noexcept {
    return entries_[offset / zone_size_];
}

ZoneCondition ZoneTable::condition_of(const Entry& entry) noexcept {
    return static_cast<ZoneCondition>(entry.condition);
}

void ZoneTable::change(Entry& entry, ZoneCondition condition) noexcept {
    const ZoneCondition old = condition_of(entry);
    open_ += static_cast<std::uint32_t>(is_open(condition)) - std::uint32_t{is_open(old)};
    active_ += static_cast<std::uint32_t>(is_active(condition)) - std::uint32_t{is_active(old)};
    entry.condition = static_cast<std::uint64_t>(condition);
}

// One that only a write opened gives its place to another.
bool ZoneTable::close_another() noexcept {
    for (std::size_t tried = 0; tried < entries_.size(); ++tried) {
        Entry& entry = entries_[next_to_close_++ % entries_.size()];
        if (condition_of(entry) != ZoneCondition::implicitly_open) continue;
        change(entry, entry.written == 0 ? ZoneCondition::empty : ZoneCondition::closed);
        return true;
    }
    return false;
}

int ZoneTable::make_open(Entry& entry, ZoneCondition condition) noexcept {
    const ZoneCondition now = condition_of(entry);
    if (now == condition || now == ZoneCondition::explicitly_open) return 0;
    if (!is_active(now) && active_max_ != 0 && active_ >= active_max_) return EOVERFLOW;
    if (!is_open(now) && open_max_ != 0 && open_ >= open_max_ && !close_another()) {
        return ETOOMANYREFS;
    }
    change(entry, condition);
    return 0;
}

// ---- Writing -----------------------------------------------------------------------------------

std::uint64_t ZoneTable::written_end(std::uint64_t offset) const noexcept {
    const std::uint64_t start = start_of(offset);
    if (is_conventional(offset)) return start + zone_size_;
    return start + std::atomic_ref(entry_of(offset).written).load(std::memory_order_acquire);
}

int ZoneTable::advance(Entry& entry, std::uint64_t from, std::uint64_t length) noexcept {
    if (length > capacity_ || from > capacity_ - length) return EIO;
    if (const int error = make_open(entry, ZoneCondition::implicitly_open); error != 0) {
        return error;
    }
    entry.last_write = from;
    std::atomic_ref(entry.written).store(from + length, std::memory_order_release);
    if (from + length == capacity_) change(entry, ZoneCondition::full);
    return 0;
}

int ZoneTable::begin_write(Range range) {
    const std::uint64_t from = range.offset - start_of(range.offset);
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(range.offset);
    Traffic& traffic = traffic_of(range.offset);
    if (traffic.resetting) return EIO;
    // The last write once more: the kernel gives what a server left unanswered to the next one.
    if (from != entry.last_write || from + range.length != entry.written) {
        if (condition_of(entry) == ZoneCondition::full || from != entry.written) return EIO;
        if (const int error = advance(entry, from, range.length); error != 0) return error;
    }
    traffic.writes.fetch_add(1, std::memory_order_relaxed);
    return 0;
}

std::expected<std::uint64_t, int> ZoneTable::begin_append(std::uint64_t start,
                                                          std::uint64_t length) {
    if (start != start_of(start) || is_conventional(start)) return std::unexpected(EIO);
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(start);
    Traffic& traffic = traffic_of(start);
    if (traffic.resetting || condition_of(entry) == ZoneCondition::full) {
        return std::unexpected(EIO);
    }
    const std::uint64_t from = entry.written;
    if (const int error = advance(entry, from, length); error != 0) return std::unexpected(error);
    traffic.writes.fetch_add(1, std::memory_order_relaxed);
    return start + from;
}

// Unless something was written after it, it may be tried again at the same place.
void ZoneTable::write_failed(Range range) {
    const std::uint64_t from = range.offset - start_of(range.offset);
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(range.offset);
    if (entry.last_write != from || entry.written != from + range.length) return;
    entry.last_write = from;
    std::atomic_ref(entry.written).store(from, std::memory_order_release);
    if (condition_of(entry) != ZoneCondition::full) return;
    change(entry, from == 0 ? ZoneCondition::empty : ZoneCondition::closed);
}

void ZoneTable::end_write(std::uint64_t offset) noexcept {
    traffic_of(offset).writes.fetch_sub(1, std::memory_order_release);
}

// ---- Zone operations ---------------------------------------------------------------------------

int ZoneTable::open_zone(std::uint64_t start) {
    if (is_conventional(start)) return EIO;
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(start);
    if (condition_of(entry) == ZoneCondition::full) return EIO;
    return make_open(entry, ZoneCondition::explicitly_open);
}

int ZoneTable::close_zone(std::uint64_t start) {
    if (is_conventional(start)) return EIO;
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(start);
    if (!is_open(condition_of(entry))) return condition_of(entry) == ZoneCondition::full ? EIO : 0;
    change(entry, entry.written == 0 ? ZoneCondition::empty : ZoneCondition::closed);
    return 0;
}

int ZoneTable::finish_zone(std::uint64_t start) {
    if (is_conventional(start)) return EIO;
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(start);
    if (condition_of(entry) == ZoneCondition::full) return 0;
    if (const int error = make_open(entry, ZoneCondition::implicitly_open); error != 0) {
        return error;
    }
    change(entry, ZoneCondition::full);
    return 0;
}

int ZoneTable::reset_zone(std::uint64_t start) {
    if (is_conventional(start)) return EIO;
    const std::lock_guard lock(mutex_);
    Entry& entry = entry_of(start);
    // First: what was full and has nothing written would stay so if the process ended now.
    change(entry, ZoneCondition::empty);
    std::atomic_ref(entry.written).store(0, std::memory_order_release);
    entry.last_write = 0;
    return 0;
}

bool ZoneTable::begin_reset(std::uint64_t start) {
    const std::lock_guard lock(mutex_);
    return !std::exchange(traffic_of(start).resetting, true);
}

bool ZoneTable::is_being_written(std::uint64_t start) const noexcept {
    return traffic_[start / zone_size_].writes.load(std::memory_order_acquire) != 0;
}

void ZoneTable::end_reset(std::uint64_t start) {
    const std::lock_guard lock(mutex_);
    traffic_of(start).resetting = false;
}

bool ZoneTable::is_empty(std::uint64_t start) const {
    const std::lock_guard lock(mutex_);
    return condition_of(entry_of(start)) == ZoneCondition::empty;
}

std::size_t ZoneTable::report(std::uint64_t offset, std::span<Zone> zones) const {
    const std::lock_guard lock(mutex_);
    std::size_t count = 0;
    for (std::uint64_t start = start_of(offset); start < disk_size_ && count < zones.size();
         start += zone_size_) {
        const Entry& entry = entry_of(start);
        const bool conventional = is_conventional(start);
        const bool has_end = conventional || condition_of(entry) == ZoneCondition::full;
        zones[count++] = {.start = start,
                          .length = zone_size_,
                          .write_pointer = start + (has_end ? zone_size_ : entry.written),
                          .capacity = conventional ? zone_size_ : capacity_,
                          .type = conventional ? ZoneType::conventional : ZoneType::sequential,
                          .condition = condition_of(entry)};
    }
    return count;
}

}  // namespace ashlar::layers
