#include <algorithm>
#include <utility>

#include "cli/backend_table.h"
#include "cli/device_spec.h"
#include "cli/server.h"

namespace ashlar::cli {

Parsed<ServerJob> job_from_state(const ServerState& state) {
    auto spec = parse_spec(state.backend, grammar());
    if (!spec) return std::unexpected("its state file: " + spec.error());
    auto device = read_device_options({.type = {}, .options = state.options});
    if (!device) return std::unexpected("its state file: " + device.error());
    auto open = prepare(*spec, Written::as_spec);
    if (!open) return std::unexpected("its state file: " + open.error());
    return ServerJob{.spec = std::move(*spec),
                     .open_backend = std::move(*open),
                     .device = *device,
                     .options = state.options,
                     .log_file = state.log_file,
                     .supervisor = state.supervisor,
                     .supervisor_start = state.supervisor_start,
                     .recovered = state,
                     .declared_in = state.declared_in,
                     .declared_as = state.declared_as};
}

}  // namespace ashlar::cli
