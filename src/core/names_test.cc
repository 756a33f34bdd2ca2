#include <set>

#include <gtest/gtest.h>

#include <ashlar/device.h>

namespace ashlar {
namespace {

// Every value has a name of its own, and what is no value has none.
template <class Enum>
void check_names(int count) {
    std::set<std::string_view> names;
    for (int value = 0; value < count; ++value) {
        const std::string_view word = name(static_cast<Enum>(value));
        EXPECT_NE(word, "unknown") << value;
        EXPECT_TRUE(names.insert(word).second) << word;
    }
    EXPECT_EQ(name(static_cast<Enum>(count)), "unknown");
}

TEST(Names, EveryValueHasOne) {
    check_names<DeviceStage>(8);
    check_names<Recovery>(4);
    check_names<DataPath>(6);
    check_names<CommandStyle>(3);
}

TEST(Names, AreWhatOptionsAreCalled) {
    EXPECT_EQ(name(DataPath::zero_copy_manual), "zero-copy-manual");
    EXPECT_EQ(name(DataPath::automatic), "auto");
    EXPECT_EQ(name(CommandStyle::per_io), "per-io");
    EXPECT_EQ(name(DeviceStage::serving), "serving");
}

}  // namespace
}  // namespace ashlar
