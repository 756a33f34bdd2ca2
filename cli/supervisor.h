// The process that stays beside a server, keeps what is not to go with it, and starts the next
// server when that one ends without wanting to.
#pragma once

#include <sys/types.h>

#include "cli/log.h"

namespace ashlar::cli {

// Until the device is gone. server: a child, which has not announced anything yet. recovers:
// whether it starts others. SIGTERM and SIGINT go on to the server. Answers an exit status.
int supervise(pid_t server, const Log& log, bool recovers);

}  // namespace ashlar::cli
