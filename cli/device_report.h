// How a device looks to people and to scripts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include <ashlar/control.h>

namespace ashlar::cli {

// A device as the kernel and its server's state file describe it.
struct DeviceReport {
    DeviceInfo info;
    DeviceParams params;
    std::string type;     // empty when the server is not ours
    std::string backend;  // its spec; empty when the server is not ours, or of an older version
};

[[nodiscard]] Result<DeviceReport> report_device(Control& control, const DeviceInfo& info);
[[nodiscard]] nlohmann::ordered_json to_json(const DeviceReport& report);

}  // namespace ashlar::cli
