// What a process keeps for a device, so that it does not go with the device's server: the memory of
// disks, and the programs that serve them.
#pragma once

#include <memory>
#include <vector>

#include <ashlar/result.h>

#include "base/fd.h"
#include "cli/program.h"
#include "cli/server.h"

namespace ashlar::cli {

// Goes with this process.
class Held {
public:
    // Each such disk of the job gets a memory file of this process. Errors: those of
    // memfd_create(2).
    [[nodiscard]] Result<void> hold_memory(ServerJob& job);
    // Starts each such program; the job is then served by its socket. Errors: Program::start's.
    [[nodiscard]] Result<void> start_programs(ServerJob& job);
    // What the programs say goes to the log; see Program::follow().
    void follow(const Log& log);

private:
    std::vector<Fd> memory_;
    std::vector<std::unique_ptr<Program>> programs_;
};

}  // namespace ashlar::cli
