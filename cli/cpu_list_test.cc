#include "cli/cpu_list.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

using List = std::vector<int>;

TEST(CpusOfUsers, AreAListOrASentenceThatSaysWhatIsOne) {
    EXPECT_EQ(parse_cpus("0-3,8"), (List{0, 1, 2, 3, 8}));
    EXPECT_FALSE(parse_cpus(""));
    EXPECT_EQ(parse_cpus("x").error(), "'x' is no list of CPUs; write 0-3,8");
}

TEST(CpusOfUsers, AreOneListForEachQueue) {
    EXPECT_EQ(parse_queue_cpus("0/1/2-3"), (std::vector<List>{{0}, {1}, {2, 3}}));
    EXPECT_EQ(parse_queue_cpus("7"), std::vector<List>{{7}});
    for (const char* text : {"", "/", "0/", "/0", "0//1"}) {
        EXPECT_FALSE(parse_queue_cpus(text)) << text;
    }
}

}  // namespace
}  // namespace ashlar::cli
