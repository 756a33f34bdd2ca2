// What is wrong with a device's settings, before anything is made.
#pragma once

#include <ashlar/device.h>
#include <ashlar/result.h>

namespace ashlar {

// Errors: EINVAL, with the value and what is allowed.
[[nodiscard]] Result<void> check_device_options(const DeviceOptions& options,
                                                const Geometry& geometry);

}  // namespace ashlar
