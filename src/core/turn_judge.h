// TurnJudge: how a queue thread takes turns with those that wake it, by what its rounds bring.
//
// Where whoever submits shares the thread's CPU, each wake-up may be a change from one to the
// other. That is right for users that wait for each I/O: the answer may be there before they would
// sleep. For one that submits many it is waste, half as much again as the I/O itself. The thread
// cannot tell which it is: interrupted by each, many look like one. So it lets them gather for a
// few rounds now and then, and goes on with that where they do.
#pragma once

#include <algorithm>

#include "base/thread_scheduling.h"

namespace ashlar {

class TurnJudge {
public:
    [[nodiscard]] Turns turns() const noexcept { return turns_; }

    // After a round that brought so many completions. True when turns() is another now.
    [[nodiscard]] bool round(unsigned completions) noexcept {
        brought_ += completions;
        if (++rounds_ < kRounds) [[likely]]
            return false;
        return judge();
    }

private:
    static constexpr unsigned kRounds = 8;  // are judged together
    static constexpr unsigned kMany = 4;    // completions a round
    static constexpr unsigned kLeftOutMost = 512;

    // In vain, it is tried ever less often.
    bool judge() noexcept {
        const bool many = brought_ >= kMany * kRounds;
        rounds_ = 0;
        brought_ = 0;
        if (turns_ == Turns::prompt) {
            if (!many && left_out_ != 0) {
                --left_out_;
                return false;
            }
            turns_ = Turns::gathered;
            return true;
        }
        if (many) {
            in_vain_ = 1;
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
};

}  // namespace ashlar
