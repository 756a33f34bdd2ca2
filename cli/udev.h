// What udev does for users who are not root: see packaging/udev.
#pragma once

#include <optional>
#include <string>

#include <ashlar/result.h>

namespace ashlar::cli {

// The file whose rules give users their devices' nodes. None if there is none, or if udev is not
// running.
[[nodiscard]] std::optional<std::string> find_udev_rule();
// Errors: ENOENT (no such rule), EINVAL (root needs none: its devices are privileged).
[[nodiscard]] Result<void> check_udev_rule();

}  // namespace ashlar::cli
