// What a server leaves in the state directory for the other commands: one file a device, and a
// socket that answers questions.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/control.h>
#include <ashlar/result.h>

#include "base/fd.h"
#include "cli/state_text.h"

namespace ashlar::cli {

// A state file is ublkN.json. Written atomically when the device is usable, removed when it is
// gone; a killed server leaves it behind, and whoever removes the device removes it.

// /run/ashlar of root, $XDG_RUNTIME_DIR/ashlar of anybody else; empty where that is not set.
[[nodiscard]] const std::string& state_directory();
// What to do about an empty one.
[[nodiscard]] Error no_state_directory();

// Makes the directory if need be. Errors: those of mkdir(2), ENOENT (XDG_RUNTIME_DIR is not set),
// ENAMETOOLONG.
[[nodiscard]] Result<void> make_state_directory();
[[nodiscard]] Result<void> write_state(const ServerState& state);
// Empty when there is none for this very device, or none that makes sense.
[[nodiscard]] std::optional<ServerState> read_state(DeviceId id, std::uint64_t identity);
// The same whichever device of that id it is of.
[[nodiscard]] std::optional<ServerState> read_any_state(DeviceId id);
// Removes files and socket if they are this very device's.
void remove_state(DeviceId id, std::uint64_t identity);
// Removes what lies there whosever it is: for the one who has the id.
void remove_orphaned_state(DeviceId id) noexcept;
// The same for an id that has no device.
void remove_state_of_gone(Control& control, DeviceId id);

// Held by who changes a device's server: two at once would take it from each other. Waits for the
// other one, so long. Empty descriptor: there is no state file, or the time is over.
[[nodiscard]] Fd lock_server(DeviceId id, std::chrono::milliseconds bound = std::chrono::hours(24));

// Held while files and sockets change hands: who looks and then removes must not be overtaken by
// the next server of the same id. It is held for moments, so who waits five seconds for it waits
// for somebody who hangs.
class StateLock {
public:
    StateLock();
    // Errors: ETIMEDOUT, those of open(2). To leave without it is for who only removes.
    [[nodiscard]] const Result<void>& taken() const { return taken_; }

private:
    Fd file_;
    Result<void> taken_;
};

// Locks a file of the directory of states for as long as the descriptor lives; nobody else may open
// it. Errors: EWOULDBLOCK (another process has it), those of open(2).
[[nodiscard]] Result<Fd> lock_file(const std::string& name);

// The ids that state files and sockets name, whether or not their devices exist; some twice.
[[nodiscard]] std::vector<DeviceId> ids_with_state();

[[nodiscard]] std::string socket_path(DeviceId id);

// Sends one request to the server of a device and answers its reply. Errors: ENOENT or
// ECONNREFUSED (no server of ours), ETIMEDOUT, EPROTO.
[[nodiscard]] Result<nlohmann::json> ask_server(
    DeviceId id, const nlohmann::json& request,
    std::chrono::milliseconds bound = std::chrono::seconds(5));

// The same for a request that is carried out or refused: complains, and answers an exit status.
[[nodiscard]] int tell_server(DeviceId id, const nlohmann::json& request,
                              std::chrono::milliseconds bound = std::chrono::seconds(5));

// One line of JSON each way on a connected socket; used by both ends. The bound is for the whole
// line. Errors: as above, EMSGSIZE.
[[nodiscard]] Result<nlohmann::json> receive_line(int socket, std::chrono::milliseconds bound,
                                                  std::size_t bytes_max);
[[nodiscard]] Result<void> send_line(int socket, const nlohmann::json& message);

}  // namespace ashlar::cli
