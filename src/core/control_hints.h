// What to tell a person about a control command that failed.
#pragma once

#include <optional>

#include <ashlar/result.h>

#include "kernel/codec.h"

namespace ashlar {

// Why /dev/ublk-control could not be opened.
[[nodiscard]] Error control_open_error(int code);

// `code` is the positive errno that the command gave.
[[nodiscard]] Error control_error(const kernel::Opcode& opcode, std::optional<DeviceId> device,
                                  int code);

}  // namespace ashlar
