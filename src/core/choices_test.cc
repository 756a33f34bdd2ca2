#include "core/choices.h"

#include <cerrno>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "kernel/features.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using kernel::KernelVersion;

constexpr KernelVersion kKernels[] = {{6, 0},  {6, 4},  {6, 5}, {6, 12}, {6, 15},
                                      {6, 16}, {6, 18}, {7, 0}, {7, 3}};
constexpr DataAccess kAccesses[] = {DataAccess::sees, DataAccess::routes, DataAccess::holds};

// What every device has where the kernel has it.
std::uint64_t always(KernelVersion kernel) {
    return kernel >= KernelVersion{6, 16} ? abi::f_update_size : 0;
}

// What is known of the paths, said once more: since when, by which features, under which name.
struct Path {
    DataPath path;
    KernelVersion since;
    std::uint64_t features;
    std::string name;
};
const Path kPaths[] = {
    {DataPath::zero_copy, {6, 16}, abi::f_auto_buf_reg | abi::f_support_zero_copy, "zero-copy"},
    {DataPath::zero_copy_manual, {6, 15}, abi::f_support_zero_copy, "zero-copy-manual"},
    {DataPath::user_copy, {6, 5}, abi::f_user_copy, "user-copy"},
    {DataPath::get_data, {6, 0}, abi::f_need_get_data, "get-data"},
    {DataPath::copy, {6, 0}, 0, "copy"},
};

bool is_zero_copy(DataPath path) {
    return path == DataPath::zero_copy || path == DataPath::zero_copy_manual;
}
const Path& about(DataPath path) {
    for (const Path& one : kPaths) {
        if (one.path == path) return one;
    }
    throw std::logic_error("no such path");
}
std::string possible(KernelVersion kernel, DataAccess access) {
    std::string names = "use one of: auto";
    for (const Path& path : kPaths) {
        if (path.since > kernel) continue;
        if (is_zero_copy(path.path) && access != DataAccess::routes) continue;
        names += ", " + path.name;
    }
    return names;
}

std::string combination(KernelVersion kernel, DataAccess access) {
    return "kernel " + to_string(kernel) + ", access " + std::to_string(static_cast<int>(access));
}

// ---- Data paths --------------------------------------------------------------------------------

TEST(Choices, TheCheapestPathOfEveryKernelForEveryBackend) {
    for (const KernelVersion kernel : kKernels) {
        for (const DataAccess access : kAccesses) {
            SCOPED_TRACE(combination(kernel, access));
            auto choice = choose({.access = access, .offered = kernel::features_since(kernel)});
            ASSERT_TRUE(choice) << choice.error().message();
            DataPath expected = DataPath::copy;
            if (access == DataAccess::holds) expected = DataPath::get_data;
            if (access == DataAccess::routes && kernel >= KernelVersion{6, 16}) {
                expected = DataPath::zero_copy;
            }
            EXPECT_EQ(name(choice->choices.data_path), name(expected));
            EXPECT_EQ(choice->features, about(expected).features | always(kernel));
            EXPECT_EQ(choice->choices.commands, CommandStyle::per_io);
            EXPECT_FALSE(choice->choices.data_path_reason.empty());
            EXPECT_FALSE(choice->choices.commands_reason.empty());
        }
    }
}

TEST(Choices, WhatIsAskedForIsTakenOrRefusedWithTheReleaseThatHasIt) {
    for (const KernelVersion kernel : kKernels) {
        for (const DataAccess access : kAccesses) {
            for (const Path& path : kPaths) {
                // Falls back: a test of its own.
                if (path.path == DataPath::zero_copy && kernel == KernelVersion{6, 15}) continue;
                SCOPED_TRACE(combination(kernel, access) + ", " + path.name);
                auto choice = choose({.data_path = path.path,
                                      .access = access,
                                      .offered = kernel::features_since(kernel)});
                if (is_zero_copy(path.path) && access != DataAccess::routes) {
                    ASSERT_FALSE(choice);
                    EXPECT_EQ(choice.error().code, EINVAL);
                    EXPECT_EQ(
                        choice.error().detail,
                        "data path " + path.name + ": this backend works on the bytes themselves");
                    EXPECT_EQ(choice.error().hint, possible(kernel, access));
                } else if (path.since > kernel) {
                    // Zero copy without the driver's own registration is still zero copy.
                    const KernelVersion since =
                        path.path == DataPath::zero_copy ? KernelVersion{6, 15} : path.since;
                    ASSERT_FALSE(choice);
                    EXPECT_EQ(choice.error().code, EOPNOTSUPP);
                    EXPECT_EQ(choice.error().detail, "data path " + path.name + " needs kernel " +
                                                         to_string(since) + " or newer");
                    EXPECT_EQ(choice.error().hint, possible(kernel, access));
                } else {
                    ASSERT_TRUE(choice) << choice.error().message();
                    EXPECT_EQ(name(choice->choices.data_path), path.name);
                    EXPECT_EQ(choice->choices.data_path_reason, "asked for");
                    EXPECT_EQ(choice->features, path.features | always(kernel));
                }
            }
        }
    }
}

TEST(Choices, ARefusalIsOneLine) {
    auto choice = choose({.data_path = DataPath::zero_copy,
                          .access = DataAccess::routes,
                          .offered = kernel::features_since({6, 12})});
    ASSERT_FALSE(choice);
    EXPECT_EQ(choice.error().message(),
              "choose how to move data: data path zero-copy needs kernel 6.15 or newer "
              "(EOPNOTSUPP: Operation not supported); use one of: auto, user-copy, get-data, copy");
}

TEST(Choices, ZeroCopyWithoutAutomaticRegistrationIsManual) {
    auto choice = choose({.data_path = DataPath::zero_copy,
                          .access = DataAccess::routes,
                          .offered = kernel::features_since({6, 15})});
    ASSERT_TRUE(choice) << choice.error().message();
    EXPECT_EQ(choice->choices.data_path, DataPath::zero_copy_manual);
    EXPECT_EQ(choice->choices.data_path_reason,
              "asked for; automatic registration needs kernel 6.16");
    EXPECT_EQ(choice->features, abi::f_support_zero_copy);
}

TEST(Choices, AKernelThatOffersNothingStillCopies) {
    for (const DataAccess access : {DataAccess::sees, DataAccess::routes}) {
        auto choice = choose({.access = access, .offered = 0});
        ASSERT_TRUE(choice);
        EXPECT_EQ(choice->choices.data_path, DataPath::copy);
        EXPECT_EQ(choice->features, 0U);
    }
    auto refused = choose({.data_path = DataPath::user_copy, .offered = 0});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().hint, "use one of: auto, copy");
}

TEST(Choices, ShortWritesAreCopiedOnlyWhereNothingElseIs) {
    const auto features = [](DataPath path, std::uint64_t offered, bool copies) {
        auto choice = choose({.data_path = path,
                              .access = DataAccess::routes,
                              .copies_writes = copies,
                              .offered = offered});
        EXPECT_TRUE(choice);
        const bool told = choice->choices.data_path_reason.ends_with(
            "short writes are copied, to "
            "leave together");
        EXPECT_EQ(told, copies && (choice->features & abi::f_support_zero_copy) != 0 &&
                            (offered & abi::f_user_copy) != 0);
        return choice->features & ~abi::f_update_size;
    };
    constexpr auto zero_copy = abi::f_auto_buf_reg | abi::f_support_zero_copy;
    const std::uint64_t all = kernel::features_since({7, 3});
    EXPECT_EQ(features(DataPath::automatic, all, true), zero_copy | abi::f_user_copy);
    EXPECT_EQ(features(DataPath::automatic, all, false), zero_copy);
    EXPECT_EQ(features(DataPath::automatic, zero_copy, true), zero_copy) << "if the kernel lets it";
    EXPECT_EQ(features(DataPath::zero_copy_manual, all, true),
              abi::f_support_zero_copy | abi::f_user_copy);
    EXPECT_EQ(features(DataPath::copy, all, true), 0U);
    EXPECT_EQ(features(DataPath::get_data, all, true), abi::f_need_get_data);
    const auto again = choice_of_device(zero_copy | abi::f_user_copy, DataAccess::routes, 1);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->choices.data_path, DataPath::zero_copy);
}

// ---- What a disk is ----------------------------------------------------------------------------

TEST(Choices, WhatADiskIsNeedsAKernelThatHasIt) {
    struct Case {
        ChoiceRequest request;
        std::uint64_t feature;
        KernelVersion since;
        DataPath path;
    };
    const auto holds = DataAccess::holds;
    for (const Case& one :
         {Case{{.zoned = true}, abi::f_zoned, {6, 6}, DataPath::user_copy},
          Case{{.metadata = true}, abi::f_integrity, {7, 0}, DataPath::user_copy},
          Case{{.access = holds, .shares_memory = true},
               abi::f_shmem_zc,
               {7, 1},
               DataPath::user_copy},
          Case{{.access = DataAccess::routes, .shares_memory = true},
               abi::f_shmem_zc,
               {7, 1},
               DataPath::zero_copy},
          Case{{.scans_partitions = false}, abi::f_no_auto_part_scan, {7, 0}, DataPath::copy}}) {
        for (const KernelVersion kernel : kKernels) {
            ChoiceRequest request = one.request;
            request.offered = kernel::features_since(kernel);
            const auto choice = choose(request);
            ASSERT_EQ(choice.has_value(), kernel >= one.since) << to_string(kernel);
            if (choice) {
                EXPECT_EQ(name(choice->choices.data_path), name(one.path));
                EXPECT_NE(choice->features & one.feature, 0U);
            } else {
                EXPECT_EQ(choice.error().code, EOPNOTSUPP);
                EXPECT_TRUE(choice.error().detail.ends_with("needs kernel " + to_string(one.since) +
                                                            " or newer"))
                    << choice.error().detail;
            }
        }
    }
}

TEST(Choices, WhatADiskIsLeavesItNotEveryPath) {
    const std::uint64_t all = kernel::features_since({7, 3});
    const auto refused = [&](ChoiceRequest request) {
        request.offered = all;
        const auto choice = choose(request);
        return choice ? std::string("chosen") : choice.error().detail;
    };
    EXPECT_EQ(refused({.data_path = DataPath::copy, .zoned = true}),
              "data path copy: a disk with zones needs user-copy");
    EXPECT_EQ(refused({.data_path = DataPath::get_data, .metadata = true}),
              "data path get-data: a disk with metadata needs user-copy");
    EXPECT_EQ(refused({.commands = CommandStyle::batch, .zoned = true}),
              "a zoned disk has no batch commands");
    EXPECT_EQ(refused({.commands = CommandStyle::batch, .metadata = true}), "chosen");
    EXPECT_EQ(refused({.data_path = DataPath::get_data, .shares_memory = true}),
              "data path get-data: the kernel does not share memory with clients on it");
}

// ---- Commands ----------------------------------------------------------------------------------

TEST(Choices, BatchCommandsAreTakenOrRefusedWithTheReleaseThatHasThem) {
    for (const KernelVersion kernel : kKernels) {
        for (const Path& path : kPaths) {
            if (path.since > kernel || path.path == DataPath::get_data) continue;
            SCOPED_TRACE("kernel " + to_string(kernel) + ", " + path.name);
            auto choice = choose({.data_path = path.path,
                                  .commands = CommandStyle::batch,
                                  .access = DataAccess::routes,
                                  .offered = kernel::features_since(kernel)});
            if (kernel < KernelVersion{7, 0}) {
                ASSERT_FALSE(choice);
                EXPECT_EQ(choice.error().code, EOPNOTSUPP);
                EXPECT_EQ(choice.error().detail, "batch commands need kernel 7.0 or newer");
                EXPECT_EQ(choice.error().hint, "use per-io");
            } else {
                ASSERT_TRUE(choice) << choice.error().message();
                EXPECT_EQ(choice->choices.commands, CommandStyle::batch);
                EXPECT_EQ(choice->choices.commands_reason, "asked for");
                EXPECT_EQ(choice->features, path.features | abi::f_batch_io | always(kernel));
            }
        }
    }
}

TEST(Choices, BatchCommandsHaveNoGetData) {
    auto choice = choose({.data_path = DataPath::get_data,
                          .commands = CommandStyle::batch,
                          .offered = kernel::features_since({7, 3})});
    ASSERT_FALSE(choice);
    EXPECT_EQ(choice.error().code, EINVAL);
    EXPECT_EQ(choice.error().detail, "the kernel has no batch commands with data path get-data");
    EXPECT_EQ(choice.error().hint, "use per-io, or another data path");
}

TEST(Choices, WhatIsLeftToChooseGoesWithBatchCommands) {
    for (const DataAccess access : kAccesses) {
        auto choice = choose({.commands = CommandStyle::batch,
                              .access = access,
                              .offered = kernel::features_since({7, 0})});
        ASSERT_TRUE(choice) << choice.error().message();
        const DataPath expected = access == DataAccess::sees     ? DataPath::copy
                                  : access == DataAccess::routes ? DataPath::zero_copy
                                                                 : DataPath::user_copy;
        EXPECT_EQ(name(choice->choices.data_path), name(expected));
        EXPECT_EQ(choice->features, about(expected).features | abi::f_batch_io | always({7, 0}));
    }
}

TEST(Choices, PerIoCommandsCanBeAskedFor) {
    auto choice = choose({.commands = CommandStyle::per_io, .offered = 0});
    ASSERT_TRUE(choice);
    EXPECT_EQ(choice->choices.commands, CommandStyle::per_io);
    EXPECT_EQ(choice->choices.commands_reason, "asked for");
    EXPECT_EQ(choice->features, 0U);
}

// ---- Threads -----------------------------------------------------------------------------------

TEST(Choices, SeveralThreadsPerQueue) {
    for (const KernelVersion kernel : kKernels) {
        SCOPED_TRACE(to_string(kernel));
        auto choice = choose({.threads_per_queue = 2, .offered = kernel::features_since(kernel)});
        if (kernel < KernelVersion{6, 16}) {
            ASSERT_FALSE(choice);
            EXPECT_EQ(choice.error().code, EOPNOTSUPP);
            EXPECT_EQ(choice.error().detail, "several threads per queue need kernel 6.16 or newer");
            EXPECT_EQ(choice.error().hint, "use one");
        } else {
            ASSERT_TRUE(choice) << choice.error().message();
            EXPECT_EQ(choice->features, abi::f_per_io_daemon | always(kernel));
        }
    }
    auto batch = choose({.commands = CommandStyle::batch,
                         .threads_per_queue = 2,
                         .offered = kernel::features_since({7, 3})});
    ASSERT_FALSE(batch);
    EXPECT_EQ(batch.error().code, EINVAL);
    EXPECT_EQ(batch.error().detail, "batch commands are for one thread per queue");
}

// ---- Unprivileged devices ----------------------------------------------------------------------

TEST(Choices, UnprivilegedDevicesAreAskedForWhereTheKernelHasThem) {
    for (const KernelVersion kernel : kKernels) {
        for (const DataAccess access : kAccesses) {
            SCOPED_TRACE(combination(kernel, access));
            auto choice = choose({.access = access,
                                  .copies_writes = true,
                                  .unprivileged = true,
                                  .offered = kernel::features_since(kernel)});
            if (kernel < KernelVersion{6, 3}) {
                ASSERT_FALSE(choice);
                EXPECT_EQ(choice.error().code, EOPNOTSUPP);
                EXPECT_EQ(choice.error().detail,
                          "an unprivileged device needs kernel 6.3 or newer");
                EXPECT_EQ(choice.error().hint, "add it as root");
                continue;
            }
            ASSERT_TRUE(choice) << choice.error().message();
            const DataPath expected =
                access == DataAccess::holds ? DataPath::get_data : DataPath::copy;
            EXPECT_EQ(name(choice->choices.data_path), name(expected));
            EXPECT_EQ(choice->features,
                      abi::f_unprivileged_dev | about(expected).features | always(kernel));
        }
    }
}

TEST(Choices, UnprivilegedDevicesHaveNoDataPathThatWantsTrust) {
    for (const Path& path : kPaths) {
        SCOPED_TRACE(path.name);
        auto choice = choose({.data_path = path.path,
                              .access = DataAccess::routes,
                              .unprivileged = true,
                              .offered = kernel::features_since({7, 3})});
        if (path.path == DataPath::get_data || path.path == DataPath::copy) {
            ASSERT_TRUE(choice) << choice.error().message();
            EXPECT_EQ(name(choice->choices.data_path), path.name);
            continue;
        }
        ASSERT_FALSE(choice);
        EXPECT_EQ(choice.error().code, EINVAL);
        EXPECT_EQ(choice.error().detail,
                  "data path " + path.name + ": the kernel gives it to privileged devices only");
        EXPECT_EQ(choice.error().hint, "use one of: auto, get-data, copy");
    }
    auto batch = choose({.commands = CommandStyle::batch,
                         .access = DataAccess::holds,
                         .unprivileged = true,
                         .offered = kernel::features_since({7, 3})});
    ASSERT_TRUE(batch) << batch.error().message();
    EXPECT_EQ(batch->choices.data_path, DataPath::copy);
}

TEST(Choices, UnprivilegedDevicesHaveNeitherZonesNorMetadata) {
    const std::uint64_t offered = kernel::features_since({7, 3});
    const auto zoned = choose({.zoned = true, .unprivileged = true, .offered = offered});
    const auto metadata = choose({.metadata = true, .unprivileged = true, .offered = offered});
    for (const auto* choice : {&zoned, &metadata}) {
        ASSERT_FALSE(*choice);
        EXPECT_EQ(choice->error().code, EINVAL);
        EXPECT_EQ(choice->error().hint, "add it as root");
    }
    EXPECT_EQ(zoned.error().detail,
              "a zoned disk: the kernel gives it to privileged devices only");
    EXPECT_EQ(metadata.error().detail, "metadata: the kernel gives it to privileged devices only");
}

TEST(Choices, UnprivilegedDevicesHaveNoRecovery) {
    for (const Recovery recovery : {Recovery::queue, Recovery::reissue, Recovery::fail}) {
        auto choice = choose({.recovery = recovery,
                              .unprivileged = true,
                              .offered = kernel::features_since({7, 3})});
        ASSERT_FALSE(choice);
        EXPECT_EQ(choice.error().code, EINVAL);
        EXPECT_EQ(choice.error().detail, "recovery " + std::string(name(recovery)) +
                                             ": the kernel gives it to privileged devices only");
    }
}

TEST(Choices, Names) {
    EXPECT_EQ(name(DataPath::automatic), "auto");
    for (const Path& path : kPaths) EXPECT_EQ(name(path.path), path.name);
    EXPECT_EQ(name(CommandStyle::automatic), "auto");
    EXPECT_EQ(name(CommandStyle::per_io), "per-io");
    EXPECT_EQ(name(CommandStyle::batch), "batch");
}

}  // namespace
}  // namespace ashlar
