// Who uses a block device, found without opening it (its server may not answer).
#pragma once

#include <optional>
#include <string>

#include <ashlar/types.h>

namespace ashlar::cli {

// "mounted on /mnt", "used as swap", "held by dm-0"; empty when nobody is found. Looks at the
// caller's mounts only: those of other mount namespaces stay unseen.
[[nodiscard]] std::optional<std::string> who_uses(DeviceId id);

}  // namespace ashlar::cli
