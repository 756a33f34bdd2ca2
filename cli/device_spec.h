// The options of `ashlar add` that are the device's, whatever its backend.
#pragma once

#include <span>
#include <string_view>

#include <ashlar/device.h>

#include "cli/backend_spec.h"

namespace ashlar::cli {

// As --id, --queues, ...; "read-only" is also what some backends are told.
[[nodiscard]] std::span<const OptionInfo> device_option_infos();

// From the options of a spec, "--queues 2" being {"queues", "2"}; its other parts are not looked
// at.
// label: what stands before an option in complaints.
[[nodiscard]] Parsed<DeviceOptions> read_device_options(const Spec& given,
                                                        std::string_view label = "--");

}  // namespace ashlar::cli
