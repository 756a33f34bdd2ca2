// The driver's optional abilities: their names, when they came, and what a kernel has that cannot
// be asked. Pure functions and constant tables.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernel/abi.h"

namespace ashlar::kernel {

// A release of Linux, the third number left out: what distributions add on top is theirs.
struct KernelVersion {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    friend constexpr auto operator<=>(const KernelVersion&, const KernelVersion&) = default;
};

// From uname's release: "6.12.43+deb12-amd64", "7.3.4-1-generic", "6.0.0-rc1", "6.0-rc1". Empty if
// it does not begin with two numbers. A release candidate counts as its release.
[[nodiscard]] std::optional<KernelVersion> parse_kernel_version(std::string_view release) noexcept;

// Of the running kernel; {0, 0} if it cannot be told.
[[nodiscard]] KernelVersion running_kernel_version() noexcept;

// "6.12".
[[nodiscard]] std::string to_string(KernelVersion version);

struct FeatureInfo {
    std::uint64_t flag = 0;
    std::string_view name;  // the kernel's, in lower case without its prefix: "user_copy"
    KernelVersion since;    // the first release in which it works
    std::string_view what;  // one line
};

// All 21, by bit.
[[nodiscard]] std::span<const FeatureInfo> all_features() noexcept;

// The entry of exactly one flag; null for none, several or an unknown one.
[[nodiscard]] const FeatureInfo* find_feature(std::uint64_t flag) noexcept;
// By name, "user_copy"; null if there is none.
[[nodiscard]] const FeatureInfo* find_feature(std::string_view name) noexcept;

// The mask of all features that came with this release or before it: what GET_FEATURES answers
// there, if the kernel is built with all its options.
[[nodiscard]] std::uint64_t features_since(KernelVersion version) noexcept;

// What may be counted on where GET_FEATURES is not known (before 6.5) or refused: the above
// without what also depends on how the kernel was built (zoned, integrity). A backport is missed,
// which ADD_DEV then shows: it answers with the flags it granted.
[[nodiscard]] std::uint64_t infer_features(KernelVersion version) noexcept;

// Commands that are not a feature's, and the release they came with.
namespace since {
inline constexpr KernelVersion driver{6, 0};
inline constexpr KernelVersion get_dev_info2{6, 3};  // with unprivileged_dev
inline constexpr KernelVersion devt_params{6, 3};
inline constexpr KernelVersion get_features{6, 5};
inline constexpr KernelVersion deadline_scheduler{6, 6};  // EEVDF
inline constexpr KernelVersion del_dev_async{6, 9};
// io_uring lets go of a registered file as soon as its own commands are done.
inline constexpr KernelVersion prompt_file_release{6, 13};
inline constexpr KernelVersion dma_align_params{6, 15};
inline constexpr KernelVersion segment_params{6, 15};
}  // namespace since

}  // namespace ashlar::kernel
