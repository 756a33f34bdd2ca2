// Bound: how long a handshake may take. libnbd comes back only when the server pauses; one that
// never stops talking is hung up on from here.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include <ashlar/result.h>

#include "base/fd.h"

namespace ashlar::nbd {

// Thread: whoever made it, but for one of its own.
class Bound {
public:
    // given_up: the other reason to end; outlives this.
    static Result<std::unique_ptr<Bound>> begin(std::chrono::milliseconds timeout,
                                                const std::atomic<bool>& given_up);
    Bound(const Bound&) = delete;
    Bound& operator=(const Bound&) = delete;
    ~Bound();

    // The connection that is made now; a descriptor of the caller's, or -1.
    void watch(int socket);
    // 0 while it may go on, then ECANCELED or ETIMEDOUT.
    [[nodiscard]] int error() const noexcept;

private:
    Bound(std::chrono::milliseconds timeout, const std::atomic<bool>& given_up);
    void run();

    const std::chrono::steady_clock::time_point deadline_;
    const std::atomic<bool>& given_up_;
    std::mutex mutex_;
    std::condition_variable ending_;
    bool ended_ = false;  // guarded by mutex_, as is the next
    Fd socket_;           // the same connection, whatever becomes of the caller's descriptor
    std::thread thread_;
};

}  // namespace ashlar::nbd
