// The NBD backend: what an export is as a disk, and its requests as calls.
#include <ashlar/nbd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <limits>
#include <mutex>
#include <utility>

#include "backends/nbd/call.h"
#include "backends/nbd/handshake.h"
#include "backends/nbd/link.h"

namespace ashlar {
namespace {

using nbd::Call;
using nbd::Command;
using nbd::Connection;
using nbd::Export;
using nbd::Link;
namespace command_flag = nbd::command_flag;

constexpr std::uint32_t kBlockLeast = 512;
constexpr std::uint32_t kBlockMost = 4096;
// What every server takes that says nothing else.
constexpr std::uint32_t kTransferMost = 32U << 20;
// How often a server is asked that answers EIO or ENOMEM, and the longest rest in between.
constexpr unsigned kAttemptsMost = 10;
constexpr std::chrono::milliseconds kLongestRest{100};
// Up to here a copy costs less than a send of its own: measured 1.2 times as fast at 4 KiB, as fast
// at 32 KiB.
constexpr std::uint32_t kCopiedWriteMost = 16 << 10;
// Bytes of a trim or write_zeroes: no answer shall take as long as a silence may. A request of the
// disk is so many of them at most, one after the other.
constexpr std::uint32_t kRangeMost = 64U << 20;
constexpr std::uint64_t kRangesMost = 16;

Error refuse(const std::string& uri, std::string detail, std::string hint) {
    return {.operation = "use export " + uri,
            .code = EINVAL,
            .detail = std::move(detail),
            .hint = std::move(hint)};
}

// What the server takes at once, but no more than `most`.
std::uint32_t whole_blocks(const Export& about, std::uint32_t block, std::uint32_t most) {
    if (about.block_max != 0) most = std::min(most, about.block_max);
    return std::max(most / block, 1U) * block;
}

Result<Geometry> geometry_of(const Export& about, const std::string& uri) {
    if (!std::has_single_bit(about.block_min) || about.block_min > kBlockMost) {
        return std::unexpected(refuse(uri,
                                      "its smallest block has " + std::to_string(about.block_min) +
                                          " bytes; a disk's has 512 to 4096, a power of two",
                                      "put nbdkit --filter=blocksize before it"));
    }
    const std::uint32_t block = std::max(about.block_min, kBlockLeast);
    if (about.size == 0 || about.size % block != 0) {
        return std::unexpected(refuse(
            uri,
            "it has " + std::to_string(about.size) +
                " bytes; a disk has a multiple of its block size, " + std::to_string(block),
            "put nbdkit --filter=truncate round-up=" + std::to_string(block) + " before it"));
    }
    Geometry geometry{.size = about.size, .logical_block_size = block};
    if (std::has_single_bit(about.block_preferred)) {
        geometry.physical_block_size = std::clamp(about.block_preferred, block, kBlockMost);
        geometry.io_opt = about.block_preferred > kBlockMost ? about.block_preferred : 0;
    }
    geometry.discard_max = kRangesMost * kRangeMost;
    geometry.write_zeroes_max = kRangesMost * whole_blocks(about, block, kRangeMost);
    geometry.rotational = about.rotational;
    return geometry;
}

class NbdSession;

class NbdBackend final : public Backend {
public:
    NbdBackend(NbdOptions options, Geometry geometry, Connection first)
        : options_(std::move(options)),
          about_(first.about),
          geometry_(geometry),
          transfer_max_(whole_blocks(about_, geometry.logical_block_size, kTransferMost)),
          zeroes_max_(whole_blocks(about_, geometry.logical_block_size, kRangeMost)),
          first_(std::move(first)) {
        options_.on_event = [this, told = std::move(options_.on_event)](const NbdEvent& event) {
            if (event.kind == NbdEvent::Kind::back) {
                reconnects_.fetch_add(1, std::memory_order_relaxed);
            }
            if (told) told(event);
        };
    }

    [[nodiscard]] std::string_view name() const noexcept override { return "nbd"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override {
        if (about_.read_only || options_.read_only) return {.read_only = true};
        return {.flush = about_.flush,
                .fua = about_.flush && about_.fua,
                .discard = about_.trim,
                .write_zeroes = about_.write_zeroes};
    }
    [[nodiscard]] DataAccess data_access() const noexcept override {
        return about_.tls ? DataAccess::sees : DataAccess::routes;
    }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        return about_.tls ? 0 : kCopiedWriteMost;
    }
    [[nodiscard]] unsigned sessions_max() const noexcept override {
        return about_.several_connections ? 0 : 1;
    }
    [[nodiscard]] std::string identity() const override { return "nbd " + options_.uri; }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return {{.name = "reconnects",
                 .value = reconnects_.load(std::memory_order_relaxed),
                 .what = "times that a lost connection was replaced"}};
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override;

private:
    friend class NbdSession;

    // The connection that was made to look at the export is the first session's.
    std::optional<Connection> take_first() {
        const std::lock_guard lock(mutex_);
        return std::exchange(first_, std::nullopt);
    }

    NbdOptions options_;
    const Export about_;
    const Geometry geometry_;
    const std::uint32_t transfer_max_;  // bytes of one read or write
    // Bytes of one write_zeroes. The protocol's older text has the server's maximum hold for it,
    // too, and some refuse what is longer.
    const std::uint32_t zeroes_max_;
    std::mutex mutex_;
    std::optional<Connection> first_;
    std::atomic<std::uint64_t> reconnects_{0};
};

class NbdSession final : public Session {
public:
    NbdSession(NbdBackend& disk, Io& io, Connection connection)
        : disk_(disk),
          can_(disk.capabilities()),
          link_(io, disk.options_, disk.about_, std::move(connection)) {}

    Task<> serve(Io& io, const Request& request) override {
        if (const int error = refusal(request.op); error != 0) return IoResult::from_errno(error);
        if (request.length > part_max(request.op)) [[unlikely]]
            return serve_parts(io, request);
        return serve_whole(io, request);
    }

    void cancel_requests() noexcept override { link_.cancel(); }
    void close() noexcept override { link_.close(); }

private:
    [[nodiscard]] int refusal(Op op) const noexcept {
        switch (op) {
            case Op::read: return 0;
            case Op::write: return can_.read_only ? EROFS : 0;
            case Op::flush: return can_.flush ? 0 : EOPNOTSUPP;
            case Op::discard: return can_.read_only ? EROFS : can_.discard ? 0 : EOPNOTSUPP;
            case Op::write_zeroes:
                return can_.read_only ? EROFS : can_.write_zeroes ? 0 : EOPNOTSUPP;
            default: return EOPNOTSUPP;
        }
    }

    [[nodiscard]] std::uint32_t part_max(Op op) const noexcept {
        if (op == Op::discard) return kRangeMost;
        return op == Op::write_zeroes ? disk_.zeroes_max_ : disk_.transfer_max_;
    }

    static Call call_of(const Request& request) noexcept {
        Call call{.offset = request.offset,
                  .length = static_cast<std::uint32_t>(request.length),
                  .buffer = request.buffer};
        switch (request.op) {
            case Op::write:
                call.command = Command::write;
                call.flags = request.fua ? command_flag::fua : std::uint16_t{0};
                break;
            case Op::flush: call.command = Command::flush; break;
            case Op::discard: call.command = Command::trim; break;
            case Op::write_zeroes:
                call.command = Command::write_zeroes;
                call.flags = request.no_unmap ? command_flag::no_hole : std::uint16_t{0};
                break;
            default: break;
        }
        return call;
    }

    Task<> serve_whole(Io& io, const Request& request) {
        Call call = call_of(request);
        for (unsigned attempt = 0;; ++attempt) {
            const IoResult result = co_await link_.answer(call);
            if (!may_pass(call, result, attempt)) [[likely]]
                co_return result;
            const IoResult slept = co_await io.sleep(rest_after(attempt));
            if (!slept.ok()) co_return slept;
        }
    }

    // Whether the server may do it if it is asked again: what it lies on may be away for a moment.
    // Not a flush: after one that failed nobody can say what of the earlier writes is there.
    [[nodiscard]] bool may_pass(const Call& call, IoResult result, unsigned attempt) const {
        const bool passes = result.error() == EIO || result.error() == ENOMEM;
        return passes && call.command != Command::flush && attempt + 1 < kAttemptsMost &&
               disk_.options_.reconnect.count() > 0;
    }
    static std::chrono::milliseconds rest_after(unsigned attempt) {
        return std::min(std::chrono::milliseconds(1 << attempt), kLongestRest);
    }

    // What is longer than the server takes at once, one part after the other.
    Task<> serve_parts(Io& io, const Request& request) {
        Call call = call_of(request);
        const bool moves_data = request.op == Op::read || request.op == Op::write;
        unsigned attempt = 0;
        for (std::uint64_t done = 0; done < request.length;) {
            const std::uint64_t most = part_max(request.op);
            call.length = static_cast<std::uint32_t>(std::min(request.length - done, most));
            call.offset = request.offset + done;
            if (moves_data) {
                call.buffer = request.buffer.part(static_cast<std::uint32_t>(done), call.length);
            }
            const IoResult part = co_await link_.answer(call);
            if (may_pass(call, part, attempt)) {
                const IoResult slept = co_await io.sleep(rest_after(attempt++));
                if (!slept.ok()) co_return slept;
                continue;
            }
            if (!part.ok()) co_return part;
            attempt = 0;
            done += call.length;
        }
        co_return IoResult();
    }

    NbdBackend& disk_;
    const Capabilities can_;
    Link link_;
};

Result<std::unique_ptr<Session>> NbdBackend::open_session(Io& io) {
    auto connection = take_first();
    if (!connection) {
        const std::atomic<bool> never = false;
        auto another = nbd::connect(options_.uri, options_.timeout, never);
        if (!another) return std::unexpected(another.error());
        if (another->about != about_) {
            return std::unexpected(Error{.operation = "connect to " + options_.uri,
                                         .code = ESTALE,
                                         .detail = "the export has changed"});
        }
        connection = std::move(*another);
    }
    return std::make_unique<NbdSession>(*this, io, std::move(*connection));
}

}  // namespace

Result<std::shared_ptr<Backend>> open_nbd(const NbdOptions& options) {
    if (auto loaded = load_nbd(); !loaded) return std::unexpected(loaded.error());
    const std::atomic<bool> never = false;
    auto connection = nbd::connect(options.uri, options.timeout, never);
    if (!connection) return std::unexpected(connection.error());
    auto geometry = geometry_of(connection->about, options.uri);
    if (!geometry) return std::unexpected(geometry.error());
    return std::make_shared<NbdBackend>(options, *geometry, std::move(*connection));
}

}  // namespace ashlar
