// The server process: one device from creation to removal.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "cli/log.h"

namespace ashlar::cli {

struct ServerJob {
    std::string type;     // "mem", "null"
    std::string backend;  // the spec that opens it once more, with layers
    std::function<Result<std::shared_ptr<Backend>>()> open_backend;
    DeviceOptions device;
};

// Told once: the device is usable, or why there is none. Answers false when nobody listens any
// more; the device is then removed again.
using Announce = std::function<bool(const Result<DeviceId>&)>;

// Serves until the device is stopped or SIGTERM or SIGINT arrives. Answers an exit status.
int run_server(const ServerJob& job, Log log, const Announce& announce);

}  // namespace ashlar::cli
