// VolatileCache: what was written to a disk since the last flush, kept by all its sessions
// together. It allocates and locks for every write. Fault injection is for tests, and this is the
// one place on a request's way where that is allowed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar::layers {

// Thread: any.
class VolatileCache {
public:
    // A write, or what later ones have left of it.
    struct Extent {
        std::uint64_t length = 0;
        std::uint64_t write = 0;            // its number: later writes have larger ones
        std::shared_ptr<std::byte> data{};  // null: zeroes
        bool no_unmap = false;              // of zeroes
    };
    using Extents = std::map<std::uint64_t, Extent>;  // by offset; they do not overlap

    // Errors: ENOMEM.
    IoResult write(std::uint64_t offset, std::span<const std::byte> from);
    void write_zeroes(Range range, bool no_unmap);

    // Fills what is known of the start of `into`, bytes of the disk from `offset` on, and answers
    // how much that is and how much after it is not in the cache.
    struct Found {
        std::uint64_t filled = 0;
        std::uint64_t missing = 0;
    };
    [[nodiscard]] Found read(std::uint64_t offset, std::span<std::byte> into) const;

    // All of it at one instant, and the number of the last write then.
    struct Snapshot {
        Extents extents;
        std::uint64_t last_write = 0;
    };
    [[nodiscard]] Snapshot snapshot() const;
    [[nodiscard]] std::uint64_t last_write() const;
    // Drops what writes up to that number have left in the range.
    void forget(Range range, std::uint64_t last_write);

    // The right to change what lies under the cache; one at a time has it. False: another has.
    [[nodiscard]] bool begin_change() noexcept {
        return !changing_.exchange(true, std::memory_order_acquire);
    }
    void end_change() noexcept { changing_.store(false, std::memory_order_release); }

private:
    // Requires the lock.
    void cut(Range range, std::uint64_t last_write = std::numeric_limits<std::uint64_t>::max());

    mutable std::mutex mutex_;  // guards what follows
    Extents extents_;
    std::uint64_t last_write_ = 0;

    std::atomic<bool> changing_ = false;
};

}  // namespace ashlar::layers
