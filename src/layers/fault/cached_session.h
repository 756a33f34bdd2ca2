// CachedSession: keeps writes and zeroes in a VolatileCache until a flush brings them to the inner
// session. Discards do not wait: what a discarded range holds is open anyway.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include <ashlar/backend.h>

#include "layers/fault/volatile_cache.h"

namespace ashlar::layers {

class CachedSession final : public Session {
public:
    // cache and power_cut outlive the session. power_cut: 0, or the errno that a flush in progress
    // ends with. inner_can: of the inner session's backend.
    CachedSession(VolatileCache& cache, const std::atomic<int>& power_cut,
                  const Capabilities& inner_can, std::unique_ptr<Session> inner)
        : cache_(cache), power_cut_(power_cut), inner_can_(inner_can), inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override;
    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    class Change;

    Task<> read(Io& io, const Request& request);
    Task<> flush(Io& io, const Request& request);
    Task<> discard(Io& io, const Request& request);
    Task<> begin(Io& io, Change& change);
    [[nodiscard]] IoResult power() const noexcept {
        return IoResult::from_errno(power_cut_.load(std::memory_order_relaxed));
    }

    VolatileCache& cache_;
    const std::atomic<int>& power_cut_;
    const Capabilities inner_can_;
    const std::unique_ptr<Session> inner_;
};

}  // namespace ashlar::layers
