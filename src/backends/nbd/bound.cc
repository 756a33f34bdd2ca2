#include "backends/nbd/bound.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <system_error>

#include "backends/nbd/hang_up.h"

namespace ashlar::nbd {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{100};
constexpr milliseconds kLongest{86'400'000};

}  // namespace

Result<std::unique_ptr<Bound>> Bound::begin(milliseconds timeout,
                                            const std::atomic<bool>& given_up) {
    std::unique_ptr<Bound> bound(new Bound(timeout, given_up));
    try {
        bound->thread_ = std::thread([&made = *bound] { made.run(); });
    } catch (const std::system_error& error) {
        return std::unexpected(Error{.operation = "start a thread",
                                     .code = error.code().value(),
                                     .hint = "raise the limit on processes (ulimit -u)"});
    }
    return bound;
}

Bound::Bound(milliseconds timeout, const std::atomic<bool>& given_up)
    : deadline_(std::chrono::steady_clock::now() + std::clamp(timeout, milliseconds(1), kLongest)),
      given_up_(given_up) {}

Bound::~Bound() {
    {
        const std::lock_guard lock(mutex_);
        ended_ = true;
    }
    ending_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void Bound::watch(int socket) {
    const std::lock_guard lock(mutex_);
    socket_ = Fd(socket < 0 ? -1 : fcntl(socket, F_DUPFD_CLOEXEC, 3));
}

int Bound::error() const noexcept {
    if (given_up_) return ECANCELED;
    return std::chrono::steady_clock::now() >= deadline_ ? ETIMEDOUT : 0;
}

void Bound::run() {
    std::unique_lock lock(mutex_);
    while (!ending_.wait_for(lock, kLook, [this] { return ended_; })) {
        if (error() != 0 && socket_.valid()) hang_up(socket_.get());
    }
}

}  // namespace ashlar::nbd
