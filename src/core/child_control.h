// Control commands that wait for I/O which this very process serves: START_DEV (older drivers read
// the partition table in it) and STOP_DEV (which waits for requests in flight).
//
// They run in a child process. In this one they would be a trap: the kernel lets a process that was
// killed exit only when its pending commands are done, and these wait for requests that nobody
// serves any more, while the open character device keeps the driver from failing them.
#pragma once

#include <chrono>

#include <ashlar/result.h>

namespace ashlar {

// pid: of the process that serves, which is the caller.
[[nodiscard]] Result<void> start_from_child(DeviceId id, std::int32_t pid,
                                            std::chrono::milliseconds timeout);
[[nodiscard]] Result<void> stop_from_child(DeviceId id, std::chrono::milliseconds timeout);
[[nodiscard]] Result<void> stop_if_unused_from_child(DeviceId id,
                                                     std::chrono::milliseconds timeout);

}  // namespace ashlar
