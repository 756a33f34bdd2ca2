#include "core/turn_judge.h"

#include <gtest/gtest.h>

namespace ashlar {
namespace {

// What a round brings, and takes, in one way of taking turns.
struct Rounds {
    unsigned bring = 1;
    std::uint64_t take = 16'000;  // nanoseconds
};
// A user of the thread.
struct User {
    Rounds prompt, gathered;
};
constexpr User kWaitsForEach{.prompt = {.bring = 1, .take = 20'000},
                             .gathered = {.bring = 1, .take = 20'000}};
constexpr User kInterrupted{.prompt = {.bring = 1, .take = 16'000},
                            .gathered = {.bring = 60, .take = 600'000}};
// On another CPU: interrupts nobody.
constexpr User kElsewhere{.prompt = {.bring = 60, .take = 600'000},
                          .gathered = {.bring = 60, .take = 600'000}};
// Somebody computes there, and has its share first.
constexpr User kBesideAnother{.prompt = {.bring = 1, .take = 16'000},
                              .gathered = {.bring = 60, .take = 4'000'000}};

struct Seen {
    int gathered = 0;  // rounds of so many
    int changes = 0;
};

struct Thread {
    Seen run(const User& user, int count) {
        Seen seen;
        for (int i = 0; i < count; ++i) {
            const Turns turns = judge.turns();
            const Rounds& rounds = turns == Turns::prompt ? user.prompt : user.gathered;
            time += rounds.take;
            seen.gathered += turns == Turns::gathered;
            const bool changed = judge.round(rounds.bring, [this] { return time; });
            EXPECT_EQ(changed, judge.turns() != turns);
            seen.changes += changed;
        }
        return seen;
    }
    std::uint64_t time = 1'000'000'000'000'000;
    TurnJudge judge;
};

TEST(TurnJudge, BeginsPrompt) { EXPECT_EQ(TurnJudge().turns(), Turns::prompt); }

TEST(TurnJudge, OneThatWaitsForEachIsInterruptedButForFewRounds) {
    Thread thread;
    thread.run(kWaitsForEach, 100'000);
    const Seen seen = thread.run(kWaitsForEach, 410'000);
    EXPECT_LE(seen.gathered, 1'608) << "four of a thousand";
    EXPECT_GE(seen.gathered, 1'500) << "or it would never see that somebody else came";
    EXPECT_LE(seen.changes, 402);
}

TEST(TurnJudge, WhatGathersStaysSo) {
    Thread thread;
    const Seen seen = thread.run(kInterrupted, 10'000);
    EXPECT_EQ(seen.changes, 1);
    EXPECT_GE(seen.gathered, 9'980);
}

TEST(TurnJudge, WhereNobodyIsInterruptedNothingChanges) {
    Thread thread;
    thread.run(kElsewhere, 100'000);
    EXPECT_LE(thread.run(kElsewhere, 410'000).gathered, 1'608);
}

TEST(TurnJudge, DoesNotLetWaitThoseWhoseCpuAnotherHas) {
    Thread thread;
    thread.run(kBesideAnother, 100'000);
    EXPECT_LE(thread.run(kBesideAnother, 410'000).gathered, 1'608);
}

TEST(TurnJudge, SeesThatAnotherCame) {
    Thread thread;
    thread.run(kInterrupted, 10'000);
    ASSERT_EQ(thread.judge.turns(), Turns::gathered);
    EXPECT_LE(thread.run(kBesideAnother, 10'000).gathered, 120);
}

TEST(TurnJudge, FollowsItsUser) {
    Thread thread;
    for (int i = 0; i < 3; ++i) {
        thread.run(kWaitsForEach, 100'000);
        EXPECT_LE(thread.run(kInterrupted, 100'000).changes, 2);
        EXPECT_EQ(thread.judge.turns(), Turns::gathered);
        EXPECT_LE(thread.run(kWaitsForEach, 1'000).gathered, 80);
    }
}

TEST(TurnJudge, FourARoundAreMany) {
    Thread thread;
    thread.run({.prompt = {.bring = 1}, .gathered = {.bring = 4, .take = 50'000}}, 100);
    EXPECT_EQ(thread.judge.turns(), Turns::gathered);
    EXPECT_LE(
        thread.run({.prompt = {.bring = 1}, .gathered = {.bring = 3, .take = 40'000}}, 100'000)
            .gathered,
        800);
}

TEST(TurnJudge, TwiceAsManyAreWorthIt) {
    Thread thread;
    thread.run({.prompt = {.bring = 5}, .gathered = {.bring = 10, .take = 32'000}}, 100);
    EXPECT_EQ(thread.judge.turns(), Turns::gathered);
    EXPECT_LE(
        thread.run({.prompt = {.bring = 5}, .gathered = {.bring = 9, .take = 28'000}}, 100'000)
            .gathered,
        800);
}

TEST(TurnJudge, AtTheEdgeItChangesSeldom) {
    Thread thread;
    Seen seen;
    for (int i = 0; i < 1'000; ++i) {  // now more, now less
        const unsigned bring = i % 3 == 0 ? 3 : 5;
        const Seen more =
            thread.run({.prompt = {.bring = 1},
                        .gathered = {.bring = bring, .take = bring * std::uint64_t{12'000}}},
                       100);
        seen.changes += more.changes;
    }
    EXPECT_LE(seen.changes, 2'500) << "one round of forty";
}

TEST(TurnJudge, ALongPauseIsNoTrouble) {
    Thread thread;
    thread.run(kInterrupted, 1'000);
    thread.time += 1'000'000'000'000'000'000;  // thirty years
    EXPECT_LE(thread.run(kInterrupted, 1'000).changes, 2);
    EXPECT_EQ(thread.judge.turns(), Turns::gathered);
}

}  // namespace
}  // namespace ashlar
