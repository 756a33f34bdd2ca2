#include "sim/storm_world.h"

#include <gtest/gtest.h>
#include <memory>
#include <set>

namespace ashlar::sim {
namespace {

TEST(World, ASeedRunsAgainExactly) {
    std::set<std::uint64_t> hashes;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        const Outcome first = std::make_unique<World>(seed)->run(nullptr);
        const Outcome second = std::make_unique<World>(seed)->run(nullptr);
        EXPECT_EQ(first.finding, "");
        EXPECT_EQ(first.hash, second.hash) << "seed " << seed;
        EXPECT_EQ(first.time, second.time) << "seed " << seed;
        hashes.insert(first.hash);
    }
    EXPECT_EQ(hashes.size(), 40U);
}

// The seeds of one run of the tests see everything that there is to see.
TEST(World, PlansAreOfEveryKind) {
    std::set<std::string> paths;
    std::set<Storage> storages;
    std::set<Recovery> recoveries;
    std::set<CommandStyle> commands;
    std::set<Act> acts;
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        const World world(seed);
        const Plan& plan = world.plan();
        paths.insert(std::string(name(plan.data_path)));
        storages.insert(plan.storage);
        recoveries.insert(plan.recovery);
        commands.insert(plan.commands);
        acts.insert(plan.acts.begin(), plan.acts.end());
    }
    EXPECT_EQ(paths.size(), 5U);
    EXPECT_EQ(storages.size(), 9U);
    EXPECT_EQ(recoveries.size(), 4U);
    EXPECT_EQ(commands.size(), 2U);
    EXPECT_EQ(acts.size(), 5U);
}

}  // namespace
}  // namespace ashlar::sim
