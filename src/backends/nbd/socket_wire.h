// A connection in the clear, on the queue's own ring: requests of a round leave in one message, and
// data goes from the socket to where it belongs.
#pragma once

#include <memory>

#include "backends/nbd/wire.h"
#include "base/fd.h"

namespace ashlar::nbd {

// socket: past the handshake, blocking. structured: reads are answered in chunks. caller outlives
// the wire. Errors: EMFILE and the like.
[[nodiscard]] Result<std::unique_ptr<Wire>> open_socket_wire(Fd socket, bool structured,
                                                             Caller& caller);

}  // namespace ashlar::nbd
