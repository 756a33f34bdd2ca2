// The server process: one device from creation, or recovery, to its end.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "cli/backend_spec.h"
#include "cli/backend_table.h"
#include "cli/log.h"
#include "cli/state_text.h"

namespace ashlar::cli {

struct ServerJob {
    Spec spec;  // of the backend, with layers
    OpenBackend open_backend;
    DeviceOptions device;
    std::vector<SpecOption> options;         // the same, as they were given
    std::string log_file;                    // empty: syslog
    std::int32_t supervisor = 0;             // its process; 0: none
    std::uint64_t supervisor_start = 0;      // process_start() of that one
    std::optional<ServerState> recovered{};  // what the last server left; none: a new device
    std::string declared_in{};               // see ServerState
    std::string declared_as{};
    bool shared = false;
};

// What serves the device once more. Errors: a sentence.
[[nodiscard]] Parsed<ServerJob> job_from_state(const ServerState& state);

// Told once to whoever started the server: the device is usable, or why there is none. Answers
// false when nobody listens any more; a new device is then removed again.
using Ready = std::function<bool(const Result<DeviceId>&)>;

// Serves until the device is stopped, handed over, or SIGTERM or SIGINT arrives. Answers an exit
// status.
int run_server(ServerJob job, Log log, const Ready& ready);

// What became of the device by a client's request.
enum class Outcome { serves, left };
struct Served;
// Accepts one client on the device's socket and answers what it asks.
// Device::resize, remembered for the next server.
Result<void> resize_served(ServerJob& job, Served& served, std::uint64_t size, const Log& log);
Outcome answer_client(ServerJob& job, Served& served, const Log& log);

}  // namespace ashlar::cli
