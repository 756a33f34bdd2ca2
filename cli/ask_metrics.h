// A device's metrics, from the server that has them.
#pragma once

#include <ashlar/control.h>
#include <ashlar/metrics.h>
#include <ashlar/result.h>

namespace ashlar::cli {

// Errors: ENOTCONN when no server of ours serves it now; those of ask_server; EPROTO.
[[nodiscard]] Result<Metrics> ask_metrics(const DeviceInfo& info);

}  // namespace ashlar::cli
