// Handle: a connection that is libnbd's.
#pragma once

#include <memory>

#include "backends/nbd/libnbd.h"

namespace ashlar::nbd {

struct HandleCloser {
    void operator()(nbd_handle* handle) const noexcept { libnbd().close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, HandleCloser>;

}  // namespace ashlar::nbd
