// Stripes: which parts of a disk are being read or changed, so that a block and its metadata are
// read as they were written: together.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include <ashlar/types.h>

namespace ashlar::layers {

// The disk's regions of 4 KiB, each a stripe; those a multiple of kStripes apart share one. Any
// number may read a stripe, or one change it. Whoever finds it taken claims it if nobody has yet:
// then the next to get in is the claimant, before all that come later.
//
// Thread: any.
class Stripes {
public:
    static constexpr std::uint64_t kStripes = 4096;
    static constexpr std::uint64_t kRegion = 4096;  // bytes

    enum class Use : std::uint8_t { read, change };

    // A request's stripes, from the first try() to the end of the object. The stripes outlive it.
    class Held {
    public:
        Held(Stripes& stripes, Range range, Use use) noexcept;
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;
        ~Held();

        // Whether all are taken. Else it has those below the one that another holds, and waits for
        // that: to be called again a little later. Nobody waits for one below those it has, so
        // somebody always gets on.
        [[nodiscard]] bool take() noexcept;

    private:
        [[nodiscard]] std::atomic<std::uint32_t>& stripe(std::uint64_t place) const noexcept;

        Stripes& stripes_;
        const Use use_;
        std::uint64_t low_;    // of those stripes that are taken first, how many
        std::uint64_t first_;  // where those begin that are taken then
        std::uint64_t count_;  // of all
        std::uint64_t taken_ = 0;
        bool claimed_ = false;  // the one that is taken next
    };

private:
    // How many read it, and the two below.
    static constexpr std::uint32_t kChanging = std::uint32_t{1} << 31;
    static constexpr std::uint32_t kClaimed = std::uint32_t{1} << 30;

    std::array<std::atomic<std::uint32_t>, kStripes> states_{};
};

}  // namespace ashlar::layers
