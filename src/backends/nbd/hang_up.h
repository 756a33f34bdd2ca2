// How a connection ends that is lost or refused.
#pragma once

#include <sys/socket.h>

namespace ashlar::nbd {

// What was not sent yet is never sent: it will be asked again elsewhere. Whoever waits for the
// socket hears of the end.
inline void hang_up(int socket) noexcept {
    const linger none{.l_onoff = 1, .l_linger = 0};
    setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    shutdown(socket, SHUT_RDWR);
}

}  // namespace ashlar::nbd
