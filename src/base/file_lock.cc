#include "base/file_lock.h"

#include <sys/file.h>
#include <cerrno>
#include <thread>

namespace ashlar {

int lock_file(int fd, bool shared, std::chrono::milliseconds patience) noexcept {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds pause(20);
    const auto until = Clock::now() + patience;
    while (true) {
        if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return 0;
        const int code = errno;
        if (code == EINTR) continue;
        if (code != EWOULDBLOCK) return code;
        if (Clock::now() >= until) return EBUSY;
        std::this_thread::sleep_for(pause);
    }
}

}  // namespace ashlar
