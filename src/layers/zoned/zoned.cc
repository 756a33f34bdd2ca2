// A zoned disk of any backend: what goes where is the ZoneTable's to say, the bytes are the inner
// backend's.
#include <fcntl.h>
#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include <ashlar/backends.h>
#include <ashlar/group_commit.h>

#include "base/assert.h"
#include "base/fd.h"
#include "base/units.h"
#include "layers/plain.h"
#include "layers/zoned/zone_table.h"

namespace ashlar {
namespace {

using layers::ZoneTable;

constexpr std::uint64_t kDiscardDefault = std::uint64_t{1} << 30;

// How long a reset waits before it looks again whether the zone's writes have ended.
constexpr std::chrono::microseconds kResetPause{100};

// A write that the table has let begin.
class Writing {
public:
    Writing(ZoneTable& table, std::uint64_t offset) noexcept : table_(table), offset_(offset) {}
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;
    ~Writing() { table_.end_write(offset_); }

private:
    ZoneTable& table_;
    const std::uint64_t offset_;
};

// A reset that has begun.
class Resetting {
public:
    Resetting(ZoneTable& table, std::uint64_t start) noexcept : table_(table), start_(start) {}
    Resetting(const Resetting&) = delete;
    Resetting& operator=(const Resetting&) = delete;
    ~Resetting() { table_.end_reset(start_); }

private:
    ZoneTable& table_;
    const std::uint64_t start_;
};

// What a session needs of its backend, which outlives it.
struct Below {
    ZoneTable& table;
    std::atomic<int>& lost;     // of the table's file: see GroupCommit
    Capabilities can;           // of the inner backend
    std::uint64_t discard_max;  // bytes of one discard
    std::uint64_t size;
};

class ZonedSession final : public Session {
public:
    // sync_fd: of the table's file, this session's own; none if it is in memory.
    ZonedSession(const Below& below, Fd sync_fd, std::unique_ptr<Session> inner)
        : below_(below),
          table_(below.table),
          sync_fd_(std::move(sync_fd)),
          commit_(below.lost),
          inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read: return read(io, request);
            case Op::write: return write(io, request);
            case Op::zone_append: return append(io, request);
            case Op::flush:
                if (sync_fd_.valid()) return flush(io, request);
                return inner_->serve(io, request);
            case Op::report_zones:
                return Task<>(IoResult::bytes(table_.report(request.offset, request.zones())));
            case Op::zone_open: return answer(table_.open_zone(request.offset));
            case Op::zone_close: return answer(table_.close_zone(request.offset));
            case Op::zone_finish: return answer(table_.finish_zone(request.offset));
            case Op::zone_reset: return reset(io, request.offset);
            case Op::zone_reset_all: return reset_all(io);
            default: return Task<>(std::errc::operation_not_supported);
        }
    }

    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    static Task<> answer(int error) { return Task<>(IoResult::from_errno(error)); }

    // The block layer sends none that crosses the end of a zone.
    [[nodiscard]] bool crosses(const Request& request) const noexcept {
        return request.length == 0 || table_.start_of(request.offset) !=
                                          table_.start_of(request.offset + request.length - 1);
    }

    Task<> read(Io& io, const Request& request) {
        if (crosses(request)) return answer(EIO);
        const std::uint64_t end = table_.written_end(request.offset);
        if (request.offset + request.length <= end) return inner_->serve(io, request);
        if (request.offset >= end) {
            std::ranges::fill(request.bytes(), std::byte{0});
            return Task<>(IoResult::bytes(request.length));
        }
        return read_partly(io, request, static_cast<std::uint32_t>(end - request.offset));
    }

    Task<> read_partly(Io& io, const Request& request, std::uint32_t written) {
        Request part = request;
        part.length = written;
        part.buffer = request.buffer.part(0, written);
        const IoResult result = co_await inner_->serve(io, part);
        if (!result.ok()) co_return result;
        if (result.count() != 0 && result.count() != written) co_return std::errc::io_error;
        std::ranges::fill(request.bytes().subspan(written), std::byte{0});
        co_return IoResult::bytes(request.length);
    }

    Task<> write(Io& io, const Request& request) {
        if (crosses(request)) return answer(EIO);
        if (table_.is_conventional(request.offset)) return inner_->serve(io, request);
        const Range range{request.offset, request.length};
        if (const int error = table_.begin_write(range); error != 0) return answer(error);
        return write_zone(io, request);
    }

    Task<> write_zone(Io& io, const Request& request) {
        const Writing writing(table_, request.offset);
        const IoResult result = co_await inner_->serve(io, request);
        const bool whole = result.ok() && (result.count() == 0 || result.count() == request.length);
        if (!whole) table_.write_failed({request.offset, request.length});
        co_return result;
    }

    Task<> append(Io& io, const Request& request) {
        const auto place = table_.begin_append(request.offset, request.length);
        if (!place) return answer(place.error());
        return append_at(io, request, *place);
    }

    Task<> append_at(Io& io, const Request& request, std::uint64_t place) {
        const Writing writing(table_, place);
        Request write = request;
        write.op = Op::write;
        write.offset = place;
        const IoResult result = co_await inner_->serve(io, write);
        const bool whole = result.ok() && (result.count() == 0 || result.count() == request.length);
        if (whole) co_return IoResult::bytes(place);
        table_.write_failed({place, request.length});
        co_return result.ok() ? IoResult(std::errc::io_error) : result;
    }

    // The data first: the write pointers are then safe with what they promise. That the kernel may
    // write them earlier, on its own, is said in the documentation.
    Task<> flush(Io& io, const Request& request) {
        if (below_.can.flush) {
            const IoResult flushed = co_await inner_->serve(io, request);
            if (!flushed.ok()) co_return flushed;
        }
        co_return co_await commit_.flush(
            io, [this](Io& on) noexcept { return on.fdatasync(sync_fd_.get()); });
    }

    Task<> reset(Io& io, std::uint64_t start) {
        if (table_.is_conventional(start)) co_return std::errc::io_error;
        while (!table_.begin_reset(start)) {
            const IoResult slept = co_await io.sleep(kResetPause);
            if (!slept.ok()) co_return slept;
        }
        const Resetting resetting(table_, start);
        while (table_.is_being_written(start)) {
            const IoResult slept = co_await io.sleep(kResetPause);
            if (!slept.ok()) co_return slept;
        }
        const int error = table_.reset_zone(start);
        if (error != 0 || !below_.can.discard) co_return IoResult::from_errno(error);
        co_return co_await discard(io, start);
    }

    // What the zone held is of no use; that it cannot be given back is no error.
    Task<> discard(Io& io, std::uint64_t start) {
        const std::uint64_t end = start + table_.zone_size();
        for (std::uint64_t at = start; at < end; at += below_.discard_max) {
            const Request part{
                .offset = at, .length = std::min(below_.discard_max, end - at), .op = Op::discard};
            static_cast<void>(co_await inner_->serve(io, part));
        }
        co_return IoResult{};
    }

    Task<> reset_all(Io& io) {
        for (std::uint64_t start = 0; start < below_.size; start += table_.zone_size()) {
            if (table_.is_conventional(start) || table_.is_empty(start)) continue;
            const IoResult result = co_await reset(io, start);
            if (!result.ok()) co_return result;
        }
        co_return IoResult{};
    }

    const Below& below_;
    ZoneTable& table_;
    const Fd sync_fd_;
    GroupCommit commit_;
    const std::unique_ptr<Session> inner_;
};

class Zoned final : public Backend {
public:
    Zoned(std::shared_ptr<Backend> inner, std::unique_ptr<ZoneTable> table,
          const Geometry& geometry)
        : inner_(std::move(inner)),
          table_(std::move(table)),
          geometry_(geometry),
          below_{.table = *table_,
                 .lost = lost_,
                 .can = inner_->capabilities(),
                 .discard_max = discard_max(inner_->geometry()),
                 .size = geometry.size} {}

    [[nodiscard]] std::string_view name() const noexcept override { return "zoned"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override {
        return {.flush = below_.can.flush || table_->file() >= 0, .fua = false};
    }
    [[nodiscard]] std::string identity() const override { return inner_->identity(); }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return inner_->counters();
    }
    [[nodiscard]] unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    [[nodiscard]] unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override;

private:
    static std::uint64_t discard_max(const Geometry& inner) noexcept {
        return inner.discard_max != 0 ? inner.discard_max : kDiscardDefault;
    }

    const std::shared_ptr<Backend> inner_;
    const std::unique_ptr<ZoneTable> table_;
    const Geometry geometry_;
    std::atomic<int> lost_{0};
    const Below below_;
};

// Each session syncs by a description of its own: see GroupCommit.
Result<std::unique_ptr<Session>> Zoned::open_session(Io& io) {
    Fd sync_fd;
    if (table_->file() >= 0) {
        sync_fd = open_again(table_->file(), O_RDONLY);
        if (!sync_fd.valid()) {
            return std::unexpected(Error{.operation = "open session of zoned",
                                         .code = errno,
                                         .detail = "its state does not open by /proc/self/fd",
                                         .hint = "mount /proc"});
        }
    }
    auto session = inner_->open_session(io);
    if (!session) return std::unexpected(session.error());
    return std::make_unique<ZonedSession>(below_, std::move(sync_fd), std::move(*session));
}

std::unexpected<Error> refuse(std::string detail) {
    return std::unexpected(
        Error{.operation = "open zoned", .code = EINVAL, .detail = std::move(detail)});
}

Result<Geometry> find_geometry(const Backend& inner, const ZonedOptions& options) {
    Geometry geometry = inner.geometry();
    if (inner.capabilities().read_only) return refuse("the backend is read-only");
    if (auto plain = layers::require_plain(inner, "open zoned"); !plain) {
        return std::unexpected(plain.error());
    }
    geometry.zones = {
        .size = options.zone_size, .open_max = options.open_max, .active_max = options.active_max};
    if (!std::has_single_bit(options.zone_size) || options.zone_size < 4096) {
        return refuse("zone size is " + std::to_string(options.zone_size) +
                      "; it must be a power of two of at least 4096");
    }
    // A zoned disk has no chunks but its zones: requests cross none of the backend's only if zones
    // do not.
    if (geometry.chunk % options.zone_size != 0) {
        return refuse("zone size is " + std::to_string(options.zone_size) +
                      "; no request may cross a multiple of " + std::to_string(geometry.chunk) +
                      " of the backend, so a zone must not either");
    }
    geometry.chunk = 0;
    geometry.size = round_down(geometry.size, options.zone_size);
    if (geometry.size == 0) {
        return refuse("the disk has " + std::to_string(inner.geometry().size) +
                      " bytes, less than one zone of " + std::to_string(options.zone_size));
    }
    if (auto valid = check_geometry(geometry); !valid) return std::unexpected(valid.error());
    const std::uint64_t count = geometry.size / options.zone_size;
    if (options.conventional >= count) {
        return refuse("conventional zones are " + std::to_string(options.conventional) +
                      "; the disk has " + std::to_string(count) +
                      " zones, and one at least is sequential");
    }
    if (options.capacity > options.zone_size ||
        options.capacity % geometry.logical_block_size != 0) {
        return refuse("capacity is " + std::to_string(options.capacity) +
                      "; allowed are multiples of the logical block size up to the zone size, " +
                      std::to_string(options.zone_size));
    }
    return geometry;
}

}  // namespace

Result<std::shared_ptr<Backend>> open_zoned(std::shared_ptr<Backend> inner,
                                            const ZonedOptions& options) {
    ASHLAR_ASSERT(inner != nullptr);
    const auto geometry = find_geometry(*inner, options);
    if (!geometry) return std::unexpected(geometry.error());
    auto table = ZoneTable::open(geometry->size, options);
    if (!table) return std::unexpected(table.error());
    return std::make_shared<Zoned>(std::move(inner), std::move(*table), *geometry);
}

}  // namespace ashlar
