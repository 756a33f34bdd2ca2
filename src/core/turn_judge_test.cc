#include "core/turn_judge.h"

#include <gtest/gtest.h>

namespace ashlar {
namespace {

// A user of the thread: what a round brings in each way of taking turns.
struct User {
    unsigned prompt, gathered;
    [[nodiscard]] unsigned brings(Turns turns) const {
        return turns == Turns::prompt ? prompt : gathered;
    }
};
constexpr User kWaitsForEach{.prompt = 1, .gathered = 1};
constexpr User kInterrupted{.prompt = 1, .gathered = 60};
constexpr User kElsewhere{.prompt = 64, .gathered = 64};

struct Seen {
    int gathered = 0;  // rounds of so many
    int changes = 0;
};

Seen let_run(TurnJudge& judge, const User& user, int rounds) {
    Seen seen;
    for (int i = 0; i < rounds; ++i) {
        const Turns now = judge.turns();
        seen.gathered += now == Turns::gathered;
        const bool changed = judge.round(user.brings(now));
        EXPECT_EQ(changed, judge.turns() != now);
        seen.changes += changed;
    }
    return seen;
}

TEST(TurnJudge, BeginsPrompt) { EXPECT_EQ(TurnJudge().turns(), Turns::prompt); }

TEST(TurnJudge, OneThatWaitsForEachIsInterruptedButForFewRounds) {
    TurnJudge judge;
    let_run(judge, kWaitsForEach, 100'000);
    const Seen seen = let_run(judge, kWaitsForEach, 410'000);
    EXPECT_LE(seen.gathered, 800) << "two of a thousand";
    EXPECT_GE(seen.gathered, 700) << "or it would never see that somebody else came";
    EXPECT_LE(seen.changes, 202);
}

TEST(TurnJudge, WhatGathersStaysSo) {
    TurnJudge judge;
    const Seen seen = let_run(judge, kInterrupted, 10'000);
    EXPECT_EQ(seen.changes, 1);
    EXPECT_GE(seen.gathered, 9'980);
}

TEST(TurnJudge, ManyAtOnceNeedNoTrial) {
    TurnJudge judge;
    let_run(judge, kWaitsForEach, 100'000);
    EXPECT_GE(let_run(judge, kElsewhere, 108).gathered, 100);
}

TEST(TurnJudge, FollowsItsUser) {
    TurnJudge judge;
    for (int i = 0; i < 3; ++i) {
        let_run(judge, kWaitsForEach, 100'000);
        EXPECT_LE(let_run(judge, kInterrupted, 100'000).changes, 2);
        EXPECT_EQ(judge.turns(), Turns::gathered);
        EXPECT_LE(let_run(judge, kWaitsForEach, 1'000).gathered, 80);
    }
}

TEST(TurnJudge, FourARoundAreMany) {
    TurnJudge judge;
    let_run(judge, {.prompt = 1, .gathered = 4}, 100);
    EXPECT_EQ(judge.turns(), Turns::gathered);
    EXPECT_LE(let_run(judge, {.prompt = 1, .gathered = 3}, 100'000).gathered, 400);
}

}  // namespace
}  // namespace ashlar
