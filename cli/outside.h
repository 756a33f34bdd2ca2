// What a server that has left the mount namespace it was started in asks of the one that process 1
// is in.
#pragma once

#include <optional>
#include <string>

#include <ashlar/types.h>

namespace ashlar::cli {

// The calling thread goes there, and stays: let it be one of its own. False: it may not.
bool enter_first_namespace();

// who_uses(), by a process that is there and holds nothing of this one: it may wait for a disk that
// is served here.
[[nodiscard]] std::optional<std::string> who_uses_outside(DeviceId id);

}  // namespace ashlar::cli
