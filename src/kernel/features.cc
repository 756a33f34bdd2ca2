#include "kernel/features.h"

#include <sys/utsname.h>
#include <array>
#include <bit>
#include <charconv>

namespace ashlar::kernel {

namespace {

// `since` by the date of the commit and the merge window after it, checked against what
// GET_FEATURES answers on 6.12, 6.16, 6.17, 6.18, 7.2 and 7.3 (features_test).
constexpr std::array features{
    // The flag is as old as the driver, but was refused until there was something behind it.
    FeatureInfo{abi::f_support_zero_copy,
                "support_zero_copy",
                {6, 15},
                "the server registers a request's pages as a buffer of its ring"},
    FeatureInfo{abi::f_uring_cmd_comp_in_task,
                "uring_cmd_comp_in_task",
                {6, 0},
                "requests reach the server by task work of the ring; now always so"},
    FeatureInfo{abi::f_need_get_data,
                "need_get_data",
                {6, 0},
                "a write is announced first; its data is copied when the server names a buffer"},
    FeatureInfo{abi::f_user_recovery,
                "user_recovery",
                {6, 1},
                "the disk outlives its server; requests under way fail, new ones wait"},
    FeatureInfo{abi::f_user_recovery_reissue,
                "user_recovery_reissue",
                {6, 1},
                "with user_recovery: requests under way are given to the next server"},
    FeatureInfo{abi::f_unprivileged_dev,
                "unprivileged_dev",
                {6, 3},
                "users without privileges may add devices and control their own"},
    FeatureInfo{abi::f_cmd_ioctl_encode,
                "cmd_ioctl_encode",
                {6, 4},
                "opcodes are encoded like those of ioctl"},
    FeatureInfo{abi::f_user_copy,
                "user_copy",
                {6, 5},
                "the server copies data itself, by reads and writes of the character device"},
    FeatureInfo{abi::f_zoned, "zoned", {6, 6}, "the disk may be a zoned one"},
    FeatureInfo{abi::f_user_recovery_fail_io,
                "user_recovery_fail_io",
                {6, 13},
                "with user_recovery: requests fail while there is no server"},
    FeatureInfo{abi::f_update_size,
                "update_size",
                {6, 16},
                "the disk's size can change while it is in use"},
    FeatureInfo{abi::f_auto_buf_reg,
                "auto_buf_reg",
                {6, 16},
                "a request's pages are registered before it arrives, and released at its commit"},
    FeatureInfo{abi::f_quiesce,
                "quiesce",
                {6, 16},
                "with user_recovery: a server can be detached on purpose, to be replaced"},
    FeatureInfo{abi::f_per_io_daemon,
                "per_io_daemon",
                {6, 16},
                "each tag may be served by a thread of its own, not only each queue"},
    FeatureInfo{abi::f_buf_reg_off_daemon,
                "buf_reg_off_daemon",
                {6, 17},
                "any thread may register and release a request's pages"},
    FeatureInfo{abi::f_batch_io,
                "batch_io",
                {7, 0},
                "one command fetches or commits many requests of a queue"},
    FeatureInfo{abi::f_integrity,
                "integrity",
                {7, 0},
                "requests carry integrity metadata; needs user_copy"},
    FeatureInfo{abi::f_safe_stop_dev,
                "safe_stop_dev",
                {7, 0},
                "a device can be stopped on the condition that nobody has it open"},
    FeatureInfo{abi::f_no_auto_part_scan,
                "no_auto_part_scan",
                {7, 0},
                "the start of a device does not look for partitions"},
    FeatureInfo{abi::f_shmem_zc,
                "shmem_zc",
                {7, 1},
                "requests in memory shared with the server arrive as an address, uncopied"},
    FeatureInfo{abi::f_io_desc_size,
                "io_desc_size",
                {7, 3},
                "the server chooses how far apart request descriptors lie"},
};

static_assert(features.size() == 21);

constexpr bool sorted_by_bit() {
    for (std::size_t bit = 0; bit < features.size(); ++bit) {
        if (features[bit].flag != std::uint64_t{1} << bit) return false;
    }
    return true;
}
static_assert(sorted_by_bit());

// Reads a decimal number that fits in 32 bits and moves `text` behind it.
std::optional<std::uint32_t> take_number(std::string_view& text) noexcept {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

}  // namespace

std::optional<KernelVersion> parse_kernel_version(std::string_view release) noexcept {
    const auto major = take_number(release);
    if (!major || !release.starts_with('.')) return std::nullopt;
    release.remove_prefix(1);
    const auto minor = take_number(release);
    if (!minor) return std::nullopt;
    return KernelVersion{*major, *minor};
}

KernelVersion running_kernel_version() noexcept {
    utsname names{};
    if (uname(&names) != 0) return {};
    return parse_kernel_version(names.release).value_or(KernelVersion{});
}

std::string to_string(KernelVersion version) {
    return std::to_string(version.major) + "." + std::to_string(version.minor);
}

std::span<const FeatureInfo> all_features() noexcept { return features; }

const FeatureInfo* find_feature(std::uint64_t flag) noexcept {
    if (!std::has_single_bit(flag)) return nullptr;
    const auto bit = static_cast<std::size_t>(std::countr_zero(flag));
    return bit < features.size() ? &features[bit] : nullptr;
}

const FeatureInfo* find_feature(std::string_view name) noexcept {
    for (const FeatureInfo& feature : features) {
        if (feature.name == name) return &feature;
    }
    return nullptr;
}

std::uint64_t features_since(KernelVersion version) noexcept {
    std::uint64_t mask = 0;
    for (const FeatureInfo& feature : features) {
        if (feature.since <= version) mask |= feature.flag;
    }
    return mask;
}

std::uint64_t infer_features(KernelVersion version) noexcept {
    return features_since(version) & ~(abi::f_zoned | abi::f_integrity);
}

}  // namespace ashlar::kernel
