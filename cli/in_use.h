// Who uses a block device.
#pragma once

#include <optional>
#include <string>

#include <ashlar/types.h>

namespace ashlar::cli {

// Who holds the disk or a partition for themselves: "mounted on /mnt", "used as swap", "held by
// dm-0", "the disk of loop0", or "in use" when it can be seen but not by whom (another mount
// namespace). Empty when nobody does. Processes that merely have it open do not count.
[[nodiscard]] std::optional<std::string> who_uses(DeviceId id);

// "process 17 (dd)" or "the mount on /data" that has the disk or a partition open; empty when none
// is seen. Works also when the disk was removed under it.
[[nodiscard]] std::optional<std::string> who_has_open(DeviceId id);

}  // namespace ashlar::cli
