#include "sim/reference.h"

#include <gtest/gtest.h>
#include <array>
#include <vector>

namespace ashlar::sim {
namespace {

constexpr std::uint32_t kBlock = 512;
using Kind = Reference::Kind;
using Outcome = Reference::Outcome;

class ReferenceTest : public testing::Test {
protected:
    std::uint64_t begin(Kind kind = Kind::write, bool fua = false) {
        return reference.begin(kOne, kind, fua);
    }
    void end(std::uint64_t number, Outcome outcome = Outcome::done) {
        reference.end(number, kOne, outcome);
    }
    std::uint64_t write(bool fua = false) {
        const std::uint64_t number = begin(Kind::write, fua);
        end(number);
        return number;
    }
    void flush() { reference.flushed(reference.now()); }
    // Whether a read from now on may find that write.
    bool may_be(std::uint64_t number) { return may_have_been(reference.now(), number); }
    bool may_have_been(std::uint64_t begun, std::uint64_t number) {
        std::array<std::byte, kBlock> block{};
        fill_block(block, number, 3);
        return reference.check(begun, kOne, block).empty();
    }

    static constexpr Reference::Blocks kOne{3, 1};
    Reference reference{8, kBlock, true};
};

TEST_F(ReferenceTest, BeginsAsZeroes) { EXPECT_TRUE(may_be(0)); }

TEST_F(ReferenceTest, AReadSeesTheLastWrite) {
    const auto first = write();
    const auto second = write();
    EXPECT_FALSE(may_be(first));
    EXPECT_FALSE(may_be(0));
    EXPECT_FALSE(may_be(second + 7));
    EXPECT_TRUE(may_be(second));
}

TEST_F(ReferenceTest, WritesAtOnceMayEitherBeTheLast) {
    const auto first = begin();
    const auto second = begin();
    end(first);
    end(second);
    EXPECT_TRUE(may_be(first));
    // It was seen: the other one came before.
    EXPECT_FALSE(may_be(second));
}

TEST_F(ReferenceTest, AReadThatBeganBeforeMaySeeWhatWasThere) {
    const auto before = reference.now();
    const auto number = write();
    EXPECT_TRUE(may_be(number));
    EXPECT_TRUE(may_have_been(before, 0));
}

TEST_F(ReferenceTest, AFailedWriteMayHaveBeenCarriedOut) {
    const auto first = write();
    const auto failed = begin();
    end(failed, Outcome::failed);
    EXPECT_TRUE(may_be(failed));
    // Once it was seen.
    EXPECT_FALSE(may_be(first));
    const auto again = begin();
    end(again, Outcome::failed);
    EXPECT_TRUE(may_be(failed)) << "or not";
    EXPECT_FALSE(may_be(again)) << "and then it stays so";
}

TEST_F(ReferenceTest, AnUnknownWriteMayStillBeCarriedOut) {
    const auto unknown = begin();
    end(unknown, Outcome::unknown);
    write();
    EXPECT_TRUE(may_be(unknown));
    reference.settle();
    write();
    EXPECT_FALSE(may_be(unknown));
}

TEST_F(ReferenceTest, WhatWasFlushedIsNotLost) {
    const auto kept = write();
    flush();
    const auto lost = write();
    reference.lose({});
    EXPECT_FALSE(may_be(0));
    EXPECT_TRUE(may_be(kept));
    EXPECT_FALSE(may_be(lost)) << "the read before has seen that it is gone";
}

TEST_F(ReferenceTest, WhatWasNotFlushedMayHaveBeenKept) {
    write();
    flush();
    const auto later = write();
    reference.lose({});
    EXPECT_TRUE(may_be(later));
}

TEST_F(ReferenceTest, AFlushIsForWhatHadEndedBeforeIt) {
    const auto begun = reference.now();
    write();
    reference.flushed(begun);
    reference.lose({});
    EXPECT_TRUE(may_be(0));
}

TEST_F(ReferenceTest, FuaIsDurableByItself) {
    write(true);
    reference.lose({});
    EXPECT_FALSE(may_be(0));
}

TEST_F(ReferenceTest, ADiscardMayLeaveWhatWasThere) {
    const auto number = write();
    end(begin(Kind::discard));
    EXPECT_TRUE(may_be(0));
    EXPECT_TRUE(may_be(number));
}

TEST_F(ReferenceTest, ATornBlockIsFound) {
    const auto number = write();
    std::array<std::byte, kBlock> block{};
    fill_block(block, number, 3);
    block[300] = std::byte{7};
    EXPECT_NE(reference.check(reference.now(), kOne, block), "");
    fill_block(block, number, 4);
    EXPECT_NE(reference.check(reference.now(), kOne, block), "") << "it is of another block";
}

}  // namespace
}  // namespace ashlar::sim
