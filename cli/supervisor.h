// The process that stays beside a server, holds the memory of its disks, and starts the next server
// when that one ends without wanting to.
#pragma once

#include <sys/types.h>
#include <vector>

#include <ashlar/result.h>

#include "base/fd.h"
#include "cli/log.h"
#include "cli/server.h"

namespace ashlar::cli {

// Whether the spec has a disk in memory that would go with its server.
[[nodiscard]] bool has_memory_of_its_own(const Spec& spec);

// Gives every such disk of the job a memory file of this process, which is to live as long as the
// device. Errors: those of memfd_create(2).
[[nodiscard]] Result<std::vector<Fd>> hold_memory(ServerJob& job);

// Until the device is gone. server: a child, which has not announced anything yet. SIGTERM and
// SIGINT go on to the server. Answers an exit status.
int supervise(pid_t server, const Log& log);

}  // namespace ashlar::cli
