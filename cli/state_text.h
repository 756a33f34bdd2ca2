// What a server's state file says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ashlar/types.h>

#include "cli/backend_spec.h"

namespace ashlar::cli {

// Enough to serve the device once more: see job_from_state().
struct ServerState {
    DeviceId id = 0;
    std::uint64_t identity = 0;  // DeviceInfo::identity: whose file this is
    std::int32_t pid = 0;
    std::string type;                    // the backend: "mem", "null"
    std::string backend{};               // the spec that opens it once more
    std::vector<SpecOption> options{};   // the device's, as they were given
    std::uint64_t size = 0;              // bytes of the disk
    std::string store{};                 // Backend::identity()
    std::string log_file{};              // empty: syslog
    std::string program{};               // the server's; what starts it again
    std::int32_t supervisor = 0;         // its process; 0: none
    std::uint64_t supervisor_start = 0;  // process_start() of that one
    std::uint64_t recoveries = 0;        // how often another server took over
    bool paused = false;                 // quiesced or stopped on purpose: not to be recovered
    std::string declared_in{};           // the file of `ashlar serve` that declares it; empty: none
    std::string declared_as{};           // its name there
    bool shared = false;                 // its server serves other devices too
    friend bool operator==(const ServerState&, const ServerState&) = default;
};

// One line of JSON.
[[nodiscard]] std::string format_state(const ServerState& state);
// Empty when it makes no sense. id: which device's file it is.
[[nodiscard]] std::optional<ServerState> parse_state(DeviceId id, std::string_view text);

}  // namespace ashlar::cli
