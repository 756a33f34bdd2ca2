// A disk's size, changed while it serves.
#include <cerrno>
#include <utility>

#include "core/device_state.h"
#include "kernel/abi.h"

namespace ashlar {

// Grown, the store comes first; shrunk, last: there is never a disk beyond its store.
Result<void> Device::State::resize(std::uint64_t size) {
    if (auto possible = check_resize(size); !possible) return possible;
    const auto tell_kernel = [&]() -> Result<void> {
        auto told = control.update_size(info.id, size);
        if (told) geometry.size = size;
        return told;
    };
    // What an earlier one has left undone comes first.
    if (backend->geometry().size > geometry.size) {
        if (auto trimmed = trim_store(); !trimmed) return trimmed;
    }
    if (size == geometry.size) return {};
    if (size > geometry.size) {
        if (auto grown = backend->resize(size); !grown) return grown;
        static_cast<void>(current_queues()->resize(size, options.timeout));
        auto told = tell_kernel();
        if (!told) static_cast<void>(trim_store());
        return told;
    }
    if (auto told = tell_kernel(); !told) return told;
    return trim_store();
}

// Takes away what the store has beyond the disk's end.
Result<void> Device::State::trim_store() {
    if (!current_queues()->resize(geometry.size, options.timeout)) {
        return std::unexpected(error("resize device", ETIMEDOUT,
                                     "the disk is smaller, but the backend still works beyond "
                                     "its end, so the store stays as large as it was",
                                     "do it again"));
    }
    return backend->resize(geometry.size);
}

Result<void> Device::State::check_resize(std::uint64_t size) const {
    if ((info.features & kernel::abi::f_update_size) == 0) {
        return std::unexpected(error("resize device", EOPNOTSUPP,
                                     "its driver cannot change a disk's size",
                                     "that takes kernel 6.16; or add the device anew"));
    }
    Geometry wanted = geometry;
    wanted.size = size;
    if (auto valid = check_geometry(wanted); !valid) return valid;
    const std::lock_guard lock(mutex);
    if (stage == DeviceStage::serving) return {};
    return std::unexpected(
        error("resize device", EBUSY, "it is " + std::string(name(stage)), "start it first"));
}

}  // namespace ashlar
