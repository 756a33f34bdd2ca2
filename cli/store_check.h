// Whether what a device's bytes lie in is what the next server will find.
#pragma once

#include <ashlar/backend.h>
#include <ashlar/result.h>

#include "cli/backend_spec.h"
#include "cli/state_text.h"

namespace ashlar::cli {

// Of a backend that was opened once more. Errors: ESTALE.
[[nodiscard]] Result<void> check_store(const ServerState& left, const Backend& backend);

// Before a server leaves its device: the files and sockets that the spec names are there, and are
// those that it has open; nothing of it is in the server's own memory. backend: that of the spec.
// Errors: those of stat(2), ESTALE, EOPNOTSUPP.
// Thread: one that sees the file systems which the next server will.
[[nodiscard]] Result<void> check_store_stays(DeviceId id, const Spec& spec, const Backend& backend);

}  // namespace ashlar::cli
