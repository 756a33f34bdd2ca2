// A connection that libnbd carries: what TLS goes through. Data is in memory, since libnbd looks at
// it. Requests are libnbd's to keep, which allocates for each.
#pragma once

#include <memory>

#include "backends/nbd/handle.h"
#include "backends/nbd/wire.h"

namespace ashlar::nbd {

// handle: past the handshake. caller outlives the wire. Errors: EMFILE and the like.
[[nodiscard]] Result<std::unique_ptr<Wire>> open_tls_wire(Handle handle, Caller& caller);

}  // namespace ashlar::nbd
