#include "base/cpu_list.h"

#include <gtest/gtest.h>

namespace ashlar {
namespace {

using List = std::vector<int>;

TEST(CpuList, NumbersAndRangesInTheirOrder) {
    EXPECT_EQ(parse_cpu_list("0"), List({0}));
    EXPECT_EQ(parse_cpu_list("0-3,8"), List({0, 1, 2, 3, 8}));
    EXPECT_EQ(parse_cpu_list("7,2-2"), List({7, 2}));
    EXPECT_EQ(parse_cpu_list("65535"), List({65'535}));
}

TEST(CpuList, AnythingElseIsNone) {
    for (const char* text :
         {"", ",", "1,", ",1", "-1", "1-", "3-2", "1 ", " 1", "0x1", "a", "1-2-3", "65536",
          "99999999999", "-", "+1", "1--2", "0-70000", "0/1"}) {
        EXPECT_EQ(parse_cpu_list(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace ashlar
