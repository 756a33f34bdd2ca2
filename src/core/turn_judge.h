// TurnJudge: how a queue thread takes turns with those that wake it, by what its rounds bring.
//
// Where whoever submits shares the thread's CPU, each wake-up may be a change from one to the
// other. That is right for users that wait for each I/O: the answer may be there before they would
// sleep. For one that submits many it is waste, half as much again as the I/O itself. The thread
// cannot tell which it is: interrupted by each, many look like one. So now and then it lets them
// gather for a few rounds, and goes on with that where they do and nothing takes longer for it, as
// it would where somebody else computes on that CPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/thread_scheduling.h"

namespace ashlar {

class TurnJudge {
public:
    [[nodiscard]] Turns turns() const noexcept { return turns_; }

    // After a round that brought so many completions. now(): nanoseconds, not asked each time. True
    // when turns() is another now.
    template <class Clock>
    [[nodiscard]] bool round(unsigned completions, const Clock& now) noexcept {
        brought_ += completions;
        if (++rounds_ < kRounds) [[likely]]
            return false;
        const std::uint64_t time = now();
        const Window window{.brought = brought_, .nanoseconds = std::min(time - begun_, kLongest)};
        begun_ = time;
        rounds_ = 0;
        brought_ = 0;
        return judge(window);
    }

private:
    static constexpr unsigned kRounds = 8;  // are judged together
    static constexpr unsigned kMany = 4;    // completions a round
    static constexpr unsigned kLeftOutMost = 256;
    static constexpr std::uint64_t kLongest = 10'000'000'000;  // nanoseconds; none may overflow

    struct Window {
        std::uint64_t brought = 0;
        std::uint64_t nanoseconds = 1;
    };

    [[nodiscard]] bool is_worth_it(const Window& gathered) const noexcept {
        return gathered.brought >= std::uint64_t{kMany} * kRounds &&
               gathered.brought >= 2 * prompt_.brought &&
               // At half the speed at least: what eight rounds take varies. Beside somebody who
               // computes it would be a quarter and less.
               2 * gathered.brought * prompt_.nanoseconds >= prompt_.brought * gathered.nanoseconds;
    }

    // In vain, it is tried ever less often.
    bool judge(const Window& window) noexcept {
        if (turns_ == Turns::prompt) {
            prompt_ = window;
            if (left_out_ != 0) {
                --left_out_;
                return false;
            }
            turns_ = Turns::gathered;
            return true;
        }
        if (is_worth_it(window)) {
            in_vain_ = std::max(in_vain_ / 2, 1U);
            return false;
        }
        left_out_ = in_vain_;
        in_vain_ = std::min(2 * in_vain_, kLeftOutMost);
        turns_ = Turns::prompt;
        return true;
    }

    Turns turns_ = Turns::prompt;
    unsigned rounds_ = 0;
    unsigned brought_ = 0;
    unsigned left_out_ = 1;  // times kRounds without a try, from now on
    unsigned in_vain_ = 1;   // so many after the next try in vain
    std::uint64_t begun_ = 0;
    Window prompt_;  // the last that was
};

}  // namespace ashlar
