#include "sim/storm_calls.h"

#include <sys/types.h>

#include "sim/sim_driver.h"

namespace {

ashlar::sim::SimDriver* find_device(int fd) {
    const auto* kernel = ashlar::sim::simulated;
    if (kernel == nullptr) return nullptr;
    const auto found = kernel->devices.find(fd);
    return found == kernel->devices.end() ? nullptr : found->second;
}

}  // namespace

extern "C" {

// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the names are the
// linker's.
ssize_t __real_pread(int fd, void* to, size_t count, off_t offset);
ssize_t __real_pwrite(int fd, const void* from, size_t count, off_t offset);

ssize_t __wrap_pread(int fd, void* to, size_t count, off_t offset) {
    auto* device = find_device(fd);
    if (device == nullptr) return __real_pread(fd, to, count, offset);
    return device->user_copy(static_cast<std::byte*>(to), count, static_cast<std::uint64_t>(offset),
                             true);
}

ssize_t __wrap_pwrite(int fd, const void* from, size_t count, off_t offset) {
    auto* device = find_device(fd);
    if (device == nullptr) return __real_pwrite(fd, from, count, offset);
    // It is only read.
    auto* memory = static_cast<std::byte*>(const_cast<void*>(from));
    return device->user_copy(memory, count, static_cast<std::uint64_t>(offset), false);
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

}  // extern "C"
