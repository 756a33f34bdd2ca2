#include "cli/store_check.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

#include "cli/backend_table.h"

namespace ashlar::cli {
namespace {

// What a backend of this spec opens by name; empty: nothing.
std::string path_of(const Spec& spec) {
    for (const std::string_view key : {"memory-file", "socket"}) {
        const auto option = std::ranges::find(spec.options, key, &SpecOption::key);
        if (option != spec.options.end()) return option->value.value_or("");
    }
    return spec.path;
}

Result<void> check_path(const std::string& path, const std::string& store) {
    Error error{.operation = "leave the device",
                .hint = "the server has it open and stays; make a copy of the disk"};
    struct stat about{};
    if (stat(path.c_str(), &about) != 0) {
        error.code = errno;
        error.detail = path + ", where its bytes are, cannot be opened by another server";
        return std::unexpected(std::move(error));
    }
    // The words of Backend::identity().
    const std::string file = fmt::format("{}:{}", about.st_dev, about.st_ino);
    const std::string disk = fmt::format("block device {}", about.st_rdev);
    const bool has_one = S_ISREG(about.st_mode) || S_ISBLK(about.st_mode);
    const std::string& wanted = S_ISBLK(about.st_mode) ? disk : file;
    if (!has_one || store.find(wanted) != std::string::npos) return {};
    error.code = ESTALE;
    error.detail = path + " is another file by now than the one that has its bytes";
    return std::unexpected(std::move(error));
}

Result<void> check_paths(const Spec& spec, const std::string& store) {
    if (const std::string path = path_of(spec); !path.empty()) {
        if (auto there = check_path(path, store); !there) return there;
    }
    for (const Spec& member : spec.members) {
        if (auto there = check_paths(member, store); !there) return there;
    }
    return {};
}

}  // namespace

Result<void> check_store(const ServerState& left, const Backend& backend) {
    const std::string now = backend.identity();
    const std::uint64_t size = backend.geometry().size;
    if (now == left.store && size == left.size) return {};
    return std::unexpected(
        Error{.operation = "recover device",
              .code = ESTALE,
              .device = left.id,
              .detail = fmt::format("its backend was '{}' with {} bytes, and is now '{}' with {}",
                                    left.store, left.size, now, size),
              .hint = "put back what it was, or remove the device"});
}

Result<void> check_store_stays(DeviceId id, const Spec& spec, const Backend& backend) {
    if (has_memory_of_its_own(spec)) {
        return std::unexpected(
            Error{.operation = "leave the device",
                  .code = EOPNOTSUPP,
                  .device = id,
                  .detail = "what it has in its server's memory goes with that, so there is "
                            "nothing to recover",
                  .hint = fmt::format("to remove it, type 'ashlar del {}'", id)});
    }
    return check_paths(spec, backend.identity());
}

}  // namespace ashlar::cli
