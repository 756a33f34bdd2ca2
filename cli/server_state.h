// What a server leaves in /run/ashlar for the other commands: one file a device, and a socket that
// answers questions.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/result.h>

#include "cli/state_text.h"

namespace ashlar::cli {

// A state file is /run/ashlar/ublkN.json. Written atomically when the device is usable, removed
// when it is gone; a killed server leaves it behind, and whoever removes the device removes it.

// Makes the directory if need be. Errors: those of mkdir(2).
[[nodiscard]] Result<void> make_state_directory();
[[nodiscard]] Result<void> write_state(const ServerState& state);
// Empty when there is none for this very device, or none that makes sense.
[[nodiscard]] std::optional<ServerState> read_state(DeviceId id, std::uint64_t identity);
// Removes files and socket, unless they are those of another device with the same id.
void remove_state(DeviceId id, std::uint64_t identity);
// The same, whosever they are: for an id that no device has.
void remove_orphaned_state(DeviceId id) noexcept;

// The ids that state files and sockets name, whether or not their devices exist; some twice.
[[nodiscard]] std::vector<DeviceId> ids_with_state();

[[nodiscard]] std::string socket_path(DeviceId id);

// Sends one request to the server of a device and answers its reply. Errors: ENOENT or
// ECONNREFUSED (no server of ours), ETIMEDOUT, EPROTO.
[[nodiscard]] Result<nlohmann::json> ask_server(DeviceId id, const nlohmann::json& request);

// One line of JSON each way on a connected socket; used by both ends. The bound is for the whole
// line. Errors: as above, EMSGSIZE.
[[nodiscard]] Result<nlohmann::json> receive_line(int socket, std::chrono::milliseconds bound,
                                                  std::size_t bytes_max);
[[nodiscard]] Result<void> send_line(int socket, const nlohmann::json& message);

}  // namespace ashlar::cli
