#include "core/choices.h"

#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "kernel/features.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

constexpr std::array kPaths = {DataPath::zero_copy, DataPath::zero_copy_manual, DataPath::user_copy,
                               DataPath::get_data, DataPath::copy};

// What a disk is, or shall be, beyond its data path, and the feature of the driver that it needs.
struct Trait {
    bool wanted = false;
    std::uint64_t feature = 0;
    std::string_view what;
    std::string_view instead;
};
std::array<Trait, 5> traits_of(const ChoiceRequest& request) noexcept {
    return {{{request.unprivileged, abi::f_unprivileged_dev, "an unprivileged device",
              "add it as root"},
             {request.zoned, abi::f_zoned, "a zoned disk", "use a kernel that has it"},
             {request.metadata, abi::f_integrity, "metadata", "leave it out"},
             {request.shares_memory, abi::f_shmem_zc, "memory shared with clients", "leave it out"},
             {!request.scans_partitions, abi::f_no_auto_part_scan, "to leave partitions unread",
              "have them read, or make no partitions"}}};
}

// What ADD_DEV is asked for.
std::uint64_t features_of(DataPath path) noexcept {
    switch (path) {
        // Manual registration is what a request falls back to.
        case DataPath::zero_copy: return abi::f_auto_buf_reg | abi::f_support_zero_copy;
        case DataPath::zero_copy_manual: return abi::f_support_zero_copy;
        case DataPath::user_copy: return abi::f_user_copy;
        case DataPath::get_data: return abi::f_need_get_data;
        default: return 0;
    }
}

bool has(std::uint64_t offered, std::uint64_t wanted) noexcept {
    return (offered & wanted) == wanted;
}

bool is_zero_copy(DataPath path) noexcept {
    return path == DataPath::zero_copy || path == DataPath::zero_copy_manual;
}

// The release in which the last of the features came.
std::string since(std::uint64_t features) {
    kernel::KernelVersion latest{};
    for (const kernel::FeatureInfo& feature : kernel::all_features()) {
        if ((feature.flag & features) != 0 && feature.since > latest) latest = feature.since;
    }
    return to_string(latest);
}

// What the driver lets only those have whom it trusts: otherwise a server could leave the memory of
// somebody's read as it was, or keep somebody's I/O waiting for ever.
constexpr std::uint64_t kTrusted = abi::f_support_zero_copy | abi::f_auto_buf_reg |
                                   abi::f_user_copy | abi::f_zoned | abi::f_user_recovery |
                                   abi::f_user_recovery_reissue | abi::f_user_recovery_fail_io |
                                   abi::f_integrity;  // goes by user copy only

std::string list_paths(const ChoiceRequest& request) {
    std::string names = "auto";
    for (const DataPath path : kPaths) {
        if (!has(request.offered, features_of(path))) continue;
        if (request.unprivileged && (features_of(path) & kTrusted) != 0) continue;
        if (is_zero_copy(path) && request.access != DataAccess::routes) continue;
        names += ", " + std::string(name(path));
    }
    return names;
}

// Also what it needs besides the data can only be copied so.
bool needs_user_copy(const ChoiceRequest& request) noexcept {
    return request.zoned || request.metadata;
}

std::unexpected<Error> refuse(int code, std::string detail, std::string hint) {
    return std::unexpected(Error{.operation = "choose how to move data",
                                 .code = code,
                                 .detail = std::move(detail),
                                 .hint = std::move(hint)});
}

Result<void> check_traits(const ChoiceRequest& request) {
    for (const Trait& trait : traits_of(request)) {
        if (!trait.wanted) continue;
        const std::string what(trait.what);
        if (!has(request.offered, trait.feature)) {
            return refuse(EOPNOTSUPP,
                          what + " needs kernel " + since(trait.feature) + " or newer",
                          std::string(trait.instead));
        }
        if (request.unprivileged && (trait.feature & kTrusted) != 0) {
            return refuse(EINVAL, what + ": the kernel gives it to privileged devices only",
                          "add it as root");
        }
    }
    return {};
}

Result<void> check_path(const ChoiceRequest& request, DataPath path) {
    const std::string wanted = "data path " + std::string(name(path));
    if (needs_user_copy(request) && path != DataPath::user_copy) {
        return refuse(EINVAL,
                      wanted + ": a disk " + (request.zoned ? "with zones" : "with metadata") +
                          " needs user-copy",
                      "use user-copy or auto");
    }
    if (is_zero_copy(path) && request.access != DataAccess::routes) {
        return refuse(EINVAL, wanted + ": this backend works on the bytes themselves",
                      "use one of: " + list_paths(request));
    }
    if (request.shares_memory && path == DataPath::get_data) {
        return refuse(EINVAL, wanted + ": the kernel does not share memory with clients on it",
                      "use user-copy or auto");
    }
    if (request.unprivileged && (features_of(path) & kTrusted) != 0) {
        return refuse(EINVAL, wanted + ": the kernel gives it to privileged devices only",
                      "use one of: " + list_paths(request));
    }
    if (!has(request.offered, features_of(path))) {
        // Zero copy of some kind came with manual registration.
        const auto least = is_zero_copy(path) ? DataPath::zero_copy_manual : path;
        return refuse(EOPNOTSUPP,
                      wanted + " needs kernel " + since(features_of(least)) + " or newer",
                      "use one of: " + list_paths(request));
    }
    return {};
}

struct Pick {
    DataPath path = DataPath::copy;
    std::string_view why;
};

// As measured; docs/architecture.md has the figures.
Pick pick_path(const ChoiceRequest& request) {
    if (request.zoned) return {DataPath::user_copy, "zone reports have no other way"};
    if (request.metadata) return {DataPath::user_copy, "metadata has no other way"};
    switch (request.access) {
        case DataAccess::routes:
            if (request.unprivileged) {
                return {DataPath::copy, "the kernel has zero copy for privileged devices only"};
            }
            if (has(request.offered, features_of(DataPath::zero_copy))) {
                return {DataPath::zero_copy,
                        "the backend only passes data on, and this kernel registers its pages"};
            }
            return {DataPath::copy, "zero copy with automatic registration needs kernel 6.16"};
        case DataAccess::holds:
            if (request.shares_memory) {
                return {DataPath::user_copy, "one copy; shared memory has no get-data"};
            }
            if (request.commands != CommandStyle::batch) {
                return {DataPath::get_data, "one copy, to and from the backend's own memory"};
            }
            if (request.unprivileged) {
                return {DataPath::copy,
                        "batch commands have no get-data, nor unprivileged devices "
                        "user-copy"};
            }
            return {DataPath::user_copy, "one copy; batch commands have no get-data"};
        case DataAccess::sees: break;
    }
    return {DataPath::copy, "the backend works on the bytes themselves"};
}

Result<void> choose_path(const ChoiceRequest& request, DeviceChoices& choices) {
    if (request.data_path == DataPath::automatic) {
        const Pick pick = pick_path(request);
        choices.data_path = pick.path;
        choices.data_path_reason = pick.why;
        return check_path(request, pick.path);
    }
    choices.data_path = request.data_path;
    choices.data_path_reason = "asked for";
    if (request.data_path == DataPath::zero_copy &&
        !has(request.offered, features_of(DataPath::zero_copy)) &&
        has(request.offered, features_of(DataPath::zero_copy_manual))) {
        choices.data_path = DataPath::zero_copy_manual;
        choices.data_path_reason = "asked for; automatic registration needs kernel " +
                                   since(features_of(DataPath::zero_copy));
    }
    return check_path(request, choices.data_path);
}

Result<void> choose_commands(const ChoiceRequest& request, DeviceChoices& choices) {
    choices.commands = CommandStyle::per_io;
    if (request.commands == CommandStyle::automatic) {
        choices.commands_reason = "a command for each request is the faster one";
        return {};
    }
    choices.commands_reason = "asked for";
    if (request.commands == CommandStyle::per_io) return {};
    choices.commands = CommandStyle::batch;
    if (!has(request.offered, abi::f_batch_io)) {
        return refuse(EOPNOTSUPP,
                      "batch commands need kernel " + since(abi::f_batch_io) + " or newer",
                      "use per-io");
    }
    if (choices.data_path == DataPath::get_data) {
        return refuse(EINVAL, "the kernel has no batch commands with data path get-data",
                      "use per-io, or another data path");
    }
    if (request.zoned) {
        return refuse(EINVAL, "a zoned disk has no batch commands", "use per-io");
    }
    if (request.threads_per_queue > 1) {
        return refuse(EINVAL, "batch commands are for one thread per queue", "use per-io");
    }
    return {};
}

std::uint64_t features_of(Recovery recovery) noexcept {
    switch (recovery) {
        case Recovery::queue: return abi::f_user_recovery;
        case Recovery::reissue: return abi::f_user_recovery | abi::f_user_recovery_reissue;
        case Recovery::fail: return abi::f_user_recovery | abi::f_user_recovery_fail_io;
        default: return 0;
    }
}

Result<void> choose_recovery(const ChoiceRequest& request, Choice& choice) {
    const std::uint64_t wanted = features_of(request.recovery);
    if (request.unprivileged && wanted != 0) {
        return std::unexpected(Error{.operation = "choose how to recover",
                                     .code = EINVAL,
                                     .detail = "recovery " + std::string(name(request.recovery)) +
                                               ": the kernel gives it to privileged devices only",
                                     .hint = "use none, or add the device as root"});
    }
    if (!has(request.offered, wanted)) {
        return std::unexpected(Error{.operation = "choose how to recover",
                                     .code = EOPNOTSUPP,
                                     .detail = "recovery " + std::string(name(request.recovery)) +
                                               " needs kernel " + since(wanted) + " or newer",
                                     .hint = "use queue or reissue"});
    }
    choice.features |= wanted;
    if (wanted != 0) choice.features |= request.offered & abi::f_quiesce;
    return {};
}

}  // namespace

Result<Choice> choose(const ChoiceRequest& request) {
    Choice choice;
    if (auto possible = check_traits(request); !possible) {
        return std::unexpected(possible.error());
    }
    if (auto chosen = choose_path(request, choice.choices); !chosen) {
        return std::unexpected(chosen.error());
    }
    if (auto chosen = choose_commands(request, choice.choices); !chosen) {
        return std::unexpected(chosen.error());
    }
    DeviceChoices& choices = choice.choices;
    choice.features = features_of(choices.data_path) | (request.offered & abi::f_update_size);
    for (const Trait& trait : traits_of(request)) {
        if (trait.wanted) choice.features |= trait.feature;
    }
    if (request.copies_writes && is_zero_copy(choices.data_path) &&
        has(request.offered, abi::f_user_copy)) {
        choice.features |= abi::f_user_copy;
        choices.data_path_reason += "; short writes are copied, to leave together";
    }
    if (choices.commands == CommandStyle::batch) choice.features |= abi::f_batch_io;
    if (request.threads_per_queue > 1) {
        if (!has(request.offered, abi::f_per_io_daemon)) {
            return refuse(EOPNOTSUPP,
                          "several threads per queue need kernel " + since(abi::f_per_io_daemon) +
                              " or newer",
                          "use one");
        }
        choice.features |= abi::f_per_io_daemon;
    }
    if (auto chosen = choose_recovery(request, choice); !chosen) {
        return std::unexpected(chosen.error());
    }
    return choice;
}

Recovery recovery_of(std::uint64_t features) noexcept {
    if (!has(features, abi::f_user_recovery)) return Recovery::none;
    if (has(features, abi::f_user_recovery_reissue)) return Recovery::reissue;
    return has(features, abi::f_user_recovery_fail_io) ? Recovery::fail : Recovery::queue;
}

Result<Choice> choice_of_device(std::uint64_t features, DataAccess access,
                                std::uint16_t threads_per_queue) {
    constexpr std::string_view reason = "as the device was made";
    Choice choice;
    choice.features = features;
    DeviceChoices& choices = choice.choices;
    choices.data_path = DataPath::copy;
    for (const DataPath path : kPaths) {
        if (!has(features, features_of(path))) continue;
        choices.data_path = path;
        break;
    }
    choices.data_path_reason = reason;
    choices.commands = has(features, abi::f_batch_io) ? CommandStyle::batch : CommandStyle::per_io;
    choices.commands_reason = reason;
    if (is_zero_copy(choices.data_path) && access != DataAccess::routes) {
        return refuse(EINVAL,
                      "the device was made for data path " + std::string(name(choices.data_path)) +
                          ", and this backend works on the bytes themselves",
                      "give it the backend it was made with");
    }
    if (threads_per_queue > 1 && !has(features, abi::f_per_io_daemon)) {
        return refuse(EINVAL, "the device was made for one thread per queue", "use one");
    }
    return choice;
}

}  // namespace ashlar
