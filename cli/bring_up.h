// From a job to a device that serves, with the state file and the socket that others find it by.
#pragma once

#include <ashlar/device.h>

#include "base/fd.h"
#include "cli/protection.h"
#include "cli/server.h"

namespace ashlar::cli {

struct Served {
    std::shared_ptr<Backend> backend;
    Device device;
    Fd listener;
    Protections protections;
};

// On failure a new device is gone again, and a recovered one waits as before.
[[nodiscard]] Result<Served> bring_up(const ServerJob& job, const Log& log);
// The same with a backend that is open, in a process that has its protections and the directory of
// states. Thread: any, several at once.
[[nodiscard]] Result<Served> bring_up_backend(const ServerJob& job,
                                              std::shared_ptr<Backend> backend,
                                              Protections protections);

}  // namespace ashlar::cli
