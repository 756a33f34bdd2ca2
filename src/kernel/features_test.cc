#include "kernel/features.h"

#include <gtest/gtest.h>

namespace ashlar::kernel {
namespace {

TEST(Features, TableAgreesWithWhatKernelsAnswered) {
    EXPECT_EQ(features_since({6, 12}), 0x1feU);
    EXPECT_EQ(features_since({6, 16}), 0x3fffU);
    EXPECT_EQ(features_since({6, 17}), 0x7fffU);
    EXPECT_EQ(features_since({6, 18}), 0x7fffU);
    EXPECT_EQ(features_since({7, 2}), 0xfffffU);
    EXPECT_EQ(features_since({7, 3}), 0x1fffffU);
}

TEST(Features, NoneBeforeTheDriver) {
    EXPECT_EQ(features_since({5, 19}), 0U);
    EXPECT_EQ(features_since({0, 0}), 0U);
    EXPECT_EQ(features_since({6, 0}), abi::f_uring_cmd_comp_in_task | abi::f_need_get_data);
}

TEST(Features, EveryEntryIsComplete) {
    ASSERT_EQ(all_features().size(), 21U);
    for (const FeatureInfo& feature : all_features()) {
        EXPECT_FALSE(feature.name.empty());
        EXPECT_FALSE(feature.what.empty());
        EXPECT_LE(feature.what.size(), 90U) << feature.name;
        EXPECT_GE(feature.since, since::driver) << feature.name;
        EXPECT_EQ(find_feature(feature.flag), &feature);
        EXPECT_EQ(find_feature(feature.name), &feature);
    }
}

TEST(Features, FindRefusesWhatIsNotOneKnownFlag) {
    EXPECT_EQ(find_feature(std::uint64_t{0}), nullptr);
    EXPECT_EQ(find_feature(abi::f_user_copy | abi::f_zoned), nullptr);
    EXPECT_EQ(find_feature(std::uint64_t{1} << 21), nullptr);
    EXPECT_EQ(find_feature(std::uint64_t{1} << 63), nullptr);
    EXPECT_EQ(find_feature("USER_COPY"), nullptr);
    EXPECT_EQ(find_feature(""), nullptr);
}

TEST(Features, InferenceLeavesOutWhatDependsOnTheBuild) {
    EXPECT_EQ(infer_features({6, 1}), 0x1eU);
    EXPECT_EQ(infer_features({6, 3}), 0x3eU);
    EXPECT_EQ(infer_features({6, 4}), 0x7eU);
    EXPECT_EQ(infer_features({7, 3}), 0x1fffffU & ~(abi::f_zoned | abi::f_integrity));
}

TEST(KernelVersion, ParsesReleases) {
    EXPECT_EQ(parse_kernel_version("6.12.43+deb12-amd64"), (KernelVersion{6, 12}));
    EXPECT_EQ(parse_kernel_version("7.3.4-1~bpo13+1-amd64"), (KernelVersion{7, 3}));
    EXPECT_EQ(parse_kernel_version("6.0.0-rc1"), (KernelVersion{6, 0}));
    EXPECT_EQ(parse_kernel_version("6.0-rc1"), (KernelVersion{6, 0}));
    EXPECT_EQ(parse_kernel_version("6.17"), (KernelVersion{6, 17}));
    EXPECT_EQ(parse_kernel_version("10.100.1"), (KernelVersion{10, 100}));
}

TEST(KernelVersion, RefusesWhatIsNoRelease) {
    for (const char* text : {"", "6", "6.", "6.x", ".6", " 6.1", "-6.1", "6.-1", "v6.1", "+6.1",
                             "99999999999.1", "6.99999999999"}) {
        EXPECT_FALSE(parse_kernel_version(text)) << text;
    }
}

TEST(KernelVersion, OrdersByNumberNotByText) {
    EXPECT_LT((KernelVersion{6, 9}), (KernelVersion{6, 12}));
    EXPECT_LT((KernelVersion{6, 99}), (KernelVersion{7, 0}));
    EXPECT_EQ(to_string(KernelVersion{6, 9}), "6.9");
}

}  // namespace
}  // namespace ashlar::kernel
