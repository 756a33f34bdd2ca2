#include "layers/metadata/stripes.h"

#include <algorithm>

namespace ashlar::layers {

// In the order of their numbers: what goes on behind the last begins with the first.
Stripes::Held::Held(Stripes& stripes, Range range, Use use) noexcept
    : stripes_(stripes), use_(use) {
    const std::uint64_t begin = range.offset / kRegion;
    const std::uint64_t end = (range.offset + range.length + kRegion - 1) / kRegion;
    count_ = std::min(end - begin, kStripes);
    first_ = count_ == kStripes ? 0 : begin % kStripes;
    low_ = first_ + count_ > kStripes ? first_ + count_ - kStripes : 0;
}

Stripes::Held::~Held() {
    const std::uint32_t mine = use_ == Use::change ? kChanging : 1;
    for (std::uint64_t i = 0; i < taken_; ++i) stripe(i).fetch_sub(mine, std::memory_order_release);
    if (claimed_) stripe(taken_).fetch_and(~kClaimed, std::memory_order_relaxed);
}

std::atomic<std::uint32_t>& Stripes::Held::stripe(std::uint64_t place) const noexcept {
    return stripes_.states_[place < low_ ? place : first_ + place - low_];
}

bool Stripes::Held::take() noexcept {
    const std::uint32_t mine = use_ == Use::change ? kChanging : 1;
    const std::uint32_t others = use_ == Use::change ? ~kClaimed : kChanging;
    while (taken_ < count_) {
        std::atomic<std::uint32_t>& state = stripe(taken_);
        std::uint32_t now = state.load(std::memory_order_relaxed);
        while (true) {
            const bool before_me = (now & kClaimed) != 0 && !claimed_;
            const bool may = (now & others) == 0 && !before_me;
            if (!may && ((now & kClaimed) != 0)) return false;
            const std::uint32_t next = may ? (now & ~kClaimed) + mine : now | kClaimed;
            if (!state.compare_exchange_weak(now, next, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
                continue;
            }
            claimed_ = !may;
            if (!may) return false;
            break;
        }
        ++taken_;
    }
    return true;
}

}  // namespace ashlar::layers
