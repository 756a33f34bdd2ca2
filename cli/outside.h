// What a server that has left the mount namespace it was started in asks of another: the one that
// process 1 or a client is in.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar::cli {

// The calling thread goes there, and stays: let it be one of its own. False: it may not.
bool enter_first_namespace();

// Runs `look` on a thread that has the file systems and the root of this process, and waits for it:
// if it may not, or the process is gone, those of process 1, else those of this one. Errors: EAGAIN
// (no thread is to be had), those of `look`.
[[nodiscard]] Result<void> look_as(std::int32_t process, const std::function<Result<void>()>& look);

// who_uses(), by a process that is there and holds nothing of this one: it may wait for a disk that
// is served here.
[[nodiscard]] std::optional<std::string> who_uses_outside(DeviceId id);

}  // namespace ashlar::cli
