#include "cli/cpu_list.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

using List = std::vector<int>;

TEST(CpuList, IsReadAsTheKernelWritesIt) {
    EXPECT_EQ(parse_cpus("0"), List{0});
    EXPECT_EQ(parse_cpus("0-3,8"), (List{0, 1, 2, 3, 8}));
    EXPECT_EQ(parse_cpus("5-5"), List{5});
    for (const char* text :
         {"", "a", "-1", "1-", "3-1", "1,", ",1", "1 ", "1--2", "99999999999", "0-70000", "0/1"}) {
        EXPECT_FALSE(parse_cpus(text)) << text;
    }
    EXPECT_EQ(parse_cpus("x").error(), "'x' is no list of CPUs; write 0-3,8");
}

TEST(CpuList, OneForEachQueue) {
    EXPECT_EQ(parse_queue_cpus("0/1/2-3"), (std::vector<List>{{0}, {1}, {2, 3}}));
    EXPECT_EQ(parse_queue_cpus("7"), std::vector<List>{{7}});
    for (const char* text : {"", "/", "0/", "/0", "0//1"}) {
        EXPECT_FALSE(parse_queue_cpus(text)) << text;
    }
}

}  // namespace
}  // namespace ashlar::cli
