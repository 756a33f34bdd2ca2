// Memory that programs which use a disk share with its server: UBLK_F_SHMEM_ZC.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ashlar/control.h>
#include <ashlar/result.h>

#include "base/fd.h"

namespace ashlar {

// The files of DeviceOptions::shared_memory, mapped.
class SharedMemory {
public:
    // Null if there are none. Errors: those of open(2) and mmap(2); EINVAL (no whole pages, none,
    // or more than 4 GiB).
    [[nodiscard]] static Result<std::shared_ptr<const SharedMemory>> open(
        std::span<const std::string> paths);

    // By index, as the driver then knows them.
    [[nodiscard]] std::span<const std::span<std::byte>> buffers() const noexcept {
        return buffers_;
    }

    // Has the driver know them in place of those of the device's last server.
    [[nodiscard]] static Result<void> register_with(Control& control, DeviceId id,
                                                    const SharedMemory* memory);

private:
    std::vector<Mapping> mappings_;
    std::vector<std::span<std::byte>> buffers_;
};

}  // namespace ashlar
