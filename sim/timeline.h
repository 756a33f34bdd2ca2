// Timeline: the virtual clock, and what happens when.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace ashlar::sim {

// Nanoseconds since the simulation began.
using Instant = std::uint64_t;

class Timeline {
public:
    using Call = std::move_only_function<void()>;

    [[nodiscard]] Instant now() const noexcept { return now_; }
    // Of two calls for one instant the one that was asked for first comes first.
    void after(Instant delay, Call call) {
        events_.push_back({now_ + delay, ++last_, std::move(call)});
        std::ranges::push_heap(events_, later);
    }
    // The clock moves to the next call and makes it. False when there is none.
    bool run_next() {
        if (events_.empty()) return false;
        std::ranges::pop_heap(events_, later);
        Event event = std::move(events_.back());
        events_.pop_back();
        now_ = event.at;
        event.call();
        return true;
    }
    // What has not happened never will.
    void clear() noexcept { events_.clear(); }

private:
    struct Event {
        Instant at = 0;
        std::uint64_t number = 0;
        Call call;
    };
    static bool later(const Event& a, const Event& b) noexcept {
        return a.at != b.at ? a.at > b.at : a.number > b.number;
    }

    Instant now_ = 0;
    std::uint64_t last_ = 0;
    std::vector<Event> events_;  // a heap, the next one first
};

}  // namespace ashlar::sim
