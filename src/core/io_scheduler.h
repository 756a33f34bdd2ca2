// The kernel's I/O scheduler of a block device.
#pragma once

#include <cstdint>
#include <string>

namespace ashlar {

// The file of sysfs that names it.
std::string io_scheduler_file(std::uint32_t id);

// Has the device of that file go without one soon: each request then reaches its queue from the
// thread that submits it, instead of through a worker's hands. Nobody waits for that, and if it
// cannot be done the device works as before.
void leave_out_io_scheduler(const std::string& file) noexcept;

}  // namespace ashlar
