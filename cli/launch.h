// Starts servers in the background.
#pragma once

#include <expected>
#include <string>

#include "cli/log.h"
#include "cli/server.h"

namespace ashlar::cli {

// Answers when the device is usable, or with a sentence why it is not. supervised: a process stays
// that brings the device back whenever its server ends without wanting to.
[[nodiscard]] std::expected<DeviceId, std::string> launch(ServerJob job, const Log& log,
                                                          bool supervised);

}  // namespace ashlar::cli
