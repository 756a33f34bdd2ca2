#include "core/near_cpus.h"

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

namespace fs = std::filesystem;

class NearCpus : public testing::Test {
protected:
    NearCpus() {
        fs::path pattern = fs::temp_directory_path() / "cpus-XXXXXX";
        std::string name = pattern.string();
        root = mkdtemp(name.data());
    }
    ~NearCpus() override { fs::remove_all(root); }
    void cache(int cpu, int index, const std::string& list) const {
        const fs::path directory =
            root / ("cpu" + std::to_string(cpu)) / "cache" / ("index" + std::to_string(index));
        fs::create_directories(directory);
        std::ofstream(directory / "shared_cpu_list") << list << '\n';
    }
    [[nodiscard]] std::vector<int> near(int cpu) const { return cpus_near(cpu, root.string()); }

    fs::path root;
};

TEST_F(NearCpus, ThoseOfTheLargestCache) {
    cache(1, 0, "1");
    cache(1, 1, "0-1");
    cache(1, 2, "0-1,4-5,9");
    EXPECT_EQ(near(1), (std::vector{0, 1, 4, 5, 9}));
}

TEST_F(NearCpus, ItselfWhereNothingIsTold) {
    EXPECT_EQ(near(3), std::vector{3});
    cache(3, 0, "");
    EXPECT_EQ(near(3), std::vector{3});
}

TEST_F(NearCpus, AListThatMakesNoSenseIsNone) {
    for (const char* list : {"x", "3-", "5-3", "3,", "3 4", "-1", "99999999999", "0-1,3x"}) {
        cache(3, 0, list);
        EXPECT_EQ(near(3), std::vector{3}) << list;
    }
}

TEST_F(NearCpus, AListWithoutItIsNotIts) {
    cache(3, 0, "0-2");
    EXPECT_EQ(near(3), std::vector{3});
}

TEST(NearCpusOfThisMachine, AreSome) { EXPECT_FALSE(cpus_near(0).empty()); }

}  // namespace
}  // namespace ashlar
