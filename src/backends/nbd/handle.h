// Handle: a connection that is libnbd's.
#pragma once

#include <libnbd.h>
#include <memory>

namespace ashlar::nbd {

struct HandleCloser {
    void operator()(nbd_handle* handle) const noexcept { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, HandleCloser>;

}  // namespace ashlar::nbd
