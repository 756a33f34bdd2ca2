// The fault layer: things that go wrong with a disk, on purpose.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include <ashlar/backends.h>

#include "base/assert.h"
#include "base/units.h"
#include "layers/fault/cached_session.h"
#include "layers/fault/volatile_cache.h"
#include "layers/plain.h"

namespace ashlar {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr int kErrnoMax = 4095;

bool applies(Fault::Kind kind, Op op) noexcept {
    const bool writes = op == Op::write || op == Op::discard || op == Op::write_zeroes;
    switch (kind) {
        case Fault::Kind::error:
        case Fault::Kind::power_cut: return writes || op == Op::read || op == Op::flush;
        case Fault::Kind::torn: return op == Op::write;
        case Fault::Kind::lost: return writes;
    }
    return false;
}

bool touches(const Range& range, const Request& request) noexcept {
    return request.offset < range.offset + range.length &&
           range.offset < request.offset + request.length;
}

// What all sessions of a disk share.
struct Disk {
    Disk(const FaultOptions& used_options, std::uint32_t used_block)
        : options(used_options), block(used_block) {}

    // What was not flushed is lost with that: nothing reads or flushes it any more.
    void cut_power(int code) noexcept {
        int none = 0;
        power_cut.compare_exchange_strong(none, code);
    }

    const FaultOptions options;
    const std::uint32_t block;
    const steady_clock::time_point opened = steady_clock::now();
    std::atomic<int> power_cut = 0;  // 0, or what every request fails with
    layers::VolatileCache cache;     // empty without FaultOptions::volatile_cache
};

class FaultSession final : public Session {
public:
    FaultSession(Disk& disk, std::uint64_t seed, std::unique_ptr<Session> inner)
        : disk_(disk), random_(seed), inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override {
        if (const int code = disk_.power_cut.load(std::memory_order_relaxed); code != 0) {
            return IoResult::from_errno(code);
        }
        const auto fault = std::ranges::find_if(
            disk_.options.faults, [&](const Fault& one) { return strikes(one, request); });
        if (fault == disk_.options.faults.end()) return inner_->serve(io, request);
        switch (fault->kind) {
            case Fault::Kind::error: break;
            case Fault::Kind::torn: return tear(io, request, fault->code);
            case Fault::Kind::lost: return IoResult{};
            case Fault::Kind::power_cut: disk_.cut_power(fault->code); break;
        }
        return IoResult::from_errno(fault->code);
    }

    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    bool strikes(const Fault& fault, const Request& request) {
        if (!applies(fault.kind, request.op)) return false;
        if (!fault.operations.empty() &&
            std::ranges::find(fault.operations, request.op) == fault.operations.end()) {
            return false;
        }
        if (fault.range && !touches(*fault.range, request)) return false;
        // A block is written whole or not at all.
        if (fault.kind == Fault::Kind::torn && request.length <= disk_.block) return false;
        if (fault.after > nanoseconds(0) && steady_clock::now() - disk_.opened < fault.after) {
            return false;
        }
        return std::uniform_real_distribution<double>(0, 1)(random_) < fault.rate;
    }

    // Some blocks get there, not all.
    Task<> tear(Io& io, const Request& request, int code) {
        const std::uint64_t blocks = request.length / disk_.block;
        const std::uint64_t kept =
            std::uniform_int_distribution<std::uint64_t>(1, blocks - 1)(random_);
        Request part = request;
        part.length = kept * disk_.block;
        part.buffer = request.buffer.part(0, static_cast<std::uint32_t>(part.length));
        const IoResult result = co_await inner_->serve(io, part);
        co_return result.ok() ? IoResult::from_errno(code) : result;
    }

    Disk& disk_;
    std::mt19937_64 random_;
    const std::unique_ptr<Session> inner_;
};

class FaultBackend final : public Backend {
public:
    FaultBackend(std::shared_ptr<Backend> inner, const FaultOptions& options)
        : inner_(std::move(inner)),
          geometry_(find_geometry(*inner_, options)),
          disk_(options, geometry_.logical_block_size) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "fault"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] std::string identity() const override { return inner_->identity(); }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return inner_->counters();
    }
    [[nodiscard]] Capabilities capabilities() const override {
        Capabilities can = inner_->capabilities();
        if (disk_.options.volatile_cache) {
            can.flush = true;
            can.fua = false;  // the engine writes, then flushes
        }
        return can;
    }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        return inner_->copied_write_max();
    }
    [[nodiscard]] unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    [[nodiscard]] unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    [[nodiscard]] DataAccess data_access() const noexcept override {
        const bool routes =
            inner_->data_access() == DataAccess::routes && !disk_.options.volatile_cache;
        return routes ? DataAccess::routes : DataAccess::sees;
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto session = inner_->open_session(io);
        if (!session) return std::unexpected(session.error());
        if (disk_.options.volatile_cache) {
            session = std::make_unique<layers::CachedSession>(
                disk_.cache, disk_.power_cut, inner_->capabilities(), std::move(*session));
        }
        const std::uint64_t number = sessions_.fetch_add(1, std::memory_order_relaxed);
        return std::make_unique<FaultSession>(disk_, disk_.options.seed + number,
                                              std::move(*session));
    }

private:
    static Geometry find_geometry(const Backend& inner, const FaultOptions& options) {
        Geometry geometry = inner.geometry();
        if (!options.volatile_cache) return geometry;
        // The cache asks `inner` for pieces of a request, and their data too must be aligned.
        const std::uint32_t block = std::max(geometry.logical_block_size, geometry.dma_alignment);
        geometry.logical_block_size = block;
        geometry.physical_block_size = std::max(geometry.physical_block_size, block);
        geometry.size = round_down(geometry.size, block);
        return geometry;
    }

    const std::shared_ptr<Backend> inner_;
    const Geometry geometry_;
    Disk disk_;
    std::atomic<std::uint64_t> sessions_ = 0;  // opened so far; no two draw the same
};

// What is wrong with a fault, or an empty string.
std::string find_mistake(const Fault& fault, std::uint64_t size) {
    if (fault.code < 1 || fault.code > kErrnoMax) {
        return "code is " + std::to_string(fault.code) + "; allowed are errno values, 1 to 4095";
    }
    for (const Op op : fault.operations) {
        if (applies(fault.kind, op)) continue;
        const std::string_view allowed = fault.kind == Fault::Kind::torn ? "write"
                                         : fault.kind == Fault::Kind::lost
                                             ? "write, discard and write_zeroes"
                                             : "read, write, flush, discard and write_zeroes";
        return "operation is " + std::string(name(op)) +
               "; allowed for this kind: " + std::string(allowed);
    }
    if (fault.range && (fault.range->length == 0 || fault.range->offset >= size ||
                        fault.range->length > size - fault.range->offset)) {
        return "range is " + std::to_string(fault.range->length) + " bytes at " +
               std::to_string(fault.range->offset) + "; it must be some of the disk's " +
               std::to_string(size) + " bytes";
    }
    if (std::isnan(fault.rate) || fault.rate < 0 || fault.rate > 1) {
        return "rate is " + std::to_string(fault.rate) + "; allowed are 0 to 1";
    }
    if (fault.after < nanoseconds(0)) {
        return "after is " + std::to_string(fault.after.count()) + " ns; it must be 0 or more";
    }
    return {};
}

}  // namespace

Result<std::shared_ptr<Backend>> open_fault(std::shared_ptr<Backend> inner,
                                            const FaultOptions& options) {
    ASHLAR_ASSERT(inner != nullptr);
    if (auto plain = layers::require_plain(*inner, "open fault layer"); !plain) {
        return std::unexpected(plain.error());
    }
    for (std::size_t i = 0; i < options.faults.size(); ++i) {
        const std::string mistake = find_mistake(options.faults[i], inner->geometry().size);
        if (mistake.empty()) continue;
        return std::unexpected(Error{.operation = "open fault layer",
                                     .code = EINVAL,
                                     .detail = "fault " + std::to_string(i) + ": " + mistake});
    }
    return std::make_shared<FaultBackend>(std::move(inner), options);
}

}  // namespace ashlar
