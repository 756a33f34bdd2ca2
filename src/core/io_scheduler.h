// The kernel's I/O scheduler of a block device.
#pragma once

#include <cstdint>

namespace ashlar {

// Has the device go without one soon: each request then reaches its queue from the thread that
// submits it, instead of through a worker's hands. Nobody waits for that, and if it cannot be done
// the device works as before.
void leave_out_io_scheduler(std::uint32_t id) noexcept;

}  // namespace ashlar
