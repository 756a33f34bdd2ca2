// What a server's state file says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <ashlar/types.h>

namespace ashlar::cli {

struct ServerState {
    DeviceId id = 0;
    std::uint64_t identity = 0;  // DeviceInfo::identity: whose file this is
    std::int32_t pid = 0;
    std::string type;       // the backend: "mem", "null"
    std::string backend{};  // the spec that opens it once more; empty in older files
};

// One line of JSON.
[[nodiscard]] std::string format_state(const ServerState& state);
// Empty when it makes no sense. id: which device's file it is.
[[nodiscard]] std::optional<ServerState> parse_state(DeviceId id, std::string_view text);

}  // namespace ashlar::cli
