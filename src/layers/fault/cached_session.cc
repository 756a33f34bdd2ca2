#include "layers/fault/cached_session.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>

namespace ashlar::layers {
namespace {

constexpr auto kRetryInterval = std::chrono::microseconds(100);

}  // namespace

// The right to change the inner disk, from begin() to the end of its scope. Write-backs of one
// flush must not pass those of another, or an older write would bury a newer one; nor may they pass
// a discard, or what was discarded would change once more, after it was read.
class CachedSession::Change {
public:
    explicit Change(VolatileCache& cache) noexcept : cache_(cache) {}
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;
    ~Change() {
        if (begun_) cache_.end_change();
    }
    [[nodiscard]] bool begin() noexcept { return begun_ = cache_.begin_change(); }

private:
    VolatileCache& cache_;
    bool begun_ = false;
};

Task<> CachedSession::serve(Io& io, const Request& request) {
    const bool writes = request.op != Op::read && request.op != Op::flush;
    if (writes && inner_can_.read_only) return IoResult::from_errno(EROFS);
    switch (request.op) {
        case Op::read: return read(io, request);
        case Op::write: return cache_.write(request.offset, request.bytes());
        case Op::flush: return flush(io, request);
        case Op::discard:
            if (!inner_can_.discard) break;
            return discard(io, request);
        case Op::write_zeroes:
            if (!inner_can_.write_zeroes) break;
            cache_.write_zeroes({request.offset, request.length}, request.no_unmap);
            return IoResult{};
        default: break;
    }
    return IoResult::from_errno(EOPNOTSUPP);
}

// What is not in the cache now is in the inner disk already, since it leaves the cache after that.
Task<> CachedSession::read(Io& io, const Request& request) {
    for (std::uint64_t done = 0; done < request.length;) {
        const auto found = cache_.read(request.offset + done, request.bytes().subspan(done));
        done += found.filled;
        if (found.missing == 0) continue;
        Request part = request;
        part.offset = request.offset + done;
        part.length = found.missing;
        part.buffer = request.buffer.part(static_cast<std::uint32_t>(done),
                                          static_cast<std::uint32_t>(found.missing));
        const IoResult result = co_await inner_->serve(io, part);
        if (!result.ok()) co_return result;
        done += found.missing;
    }
    co_return IoResult{};
}

Task<> CachedSession::flush(Io& io, const Request& request) {
    Change change(cache_);
    if (const IoResult begun = co_await begin(io, change); !begun.ok()) co_return begun;
    const VolatileCache::Snapshot snapshot = cache_.snapshot();
    for (const auto& [offset, extent] : snapshot.extents) {
        if (!power().ok()) co_return power();
        Request part = request;
        part.offset = offset;
        part.length = extent.length;
        part.op = extent.data != nullptr ? Op::write : Op::write_zeroes;
        part.no_unmap = extent.no_unmap;
        part.buffer =
            Buffer::memory(extent.data.get(),
                           extent.data != nullptr ? static_cast<std::uint32_t>(extent.length) : 0);
        const IoResult result = co_await inner_->serve(io, part);
        if (!result.ok()) co_return result;
    }
    if (inner_can_.flush) {
        const IoResult result = co_await inner_->serve(io, request);
        if (!result.ok()) co_return result;
    }
    // What was written meanwhile has a larger number and stays.
    cache_.forget({0, std::numeric_limits<std::uint64_t>::max()}, snapshot.last_write);
    co_return IoResult{};
}

Task<> CachedSession::discard(Io& io, const Request& request) {
    Change change(cache_);
    if (const IoResult begun = co_await begin(io, change); !begun.ok()) co_return begun;
    const std::uint64_t last_write = cache_.last_write();
    const IoResult result = co_await inner_->serve(io, request);
    if (result.ok()) cache_.forget({request.offset, request.length}, last_write);
    co_return result;
}

Task<> CachedSession::begin(Io& io, Change& change) {
    while (!change.begin()) {
        // Another request has it, maybe on another thread. A test layer may look again instead of
        // being woken.
        const IoResult slept = co_await io.sleep(kRetryInterval);
        if (!slept.ok()) co_return slept;
    }
    co_return power();
}

}  // namespace ashlar::layers
