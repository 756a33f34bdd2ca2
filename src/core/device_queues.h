// DeviceQueues: the queues of one device while it serves, on their threads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <ashlar/control.h>
#include <ashlar/device.h>

#include "core/live_metrics.h"
#include "core/queue.h"
#include "core/queue_threads.h"
#include "core/shared_memory.h"

namespace ashlar {

// What serving needs to know of the device; constant while it does.
struct Serving {
    DeviceInfo info;  // as negotiated
    DeviceChoices choices;
    Capabilities capabilities;
    std::uint16_t threads_per_queue = 1;
    std::shared_ptr<Backend> backend;
    std::uint64_t size = UINT64_MAX;  // bytes
    std::uint64_t zone_size = 0;      // bytes; 0: no zoned disk
    Metadata metadata{};
    std::shared_ptr<const SharedMemory> shared{};
    bool timed = false;
    std::shared_ptr<Observer> observer{};  // only if it is timed
    std::function<void()> on_end{};  // DeviceOptions::on_end
};

// A queue is served in threads_per_queue parts, each by one thread; a part is known by its number.
// Queues keep this object alive, but not their threads, which are the device's: it ends them, and
// not one of them itself.
//
// Thread: any. Made once for each time that the device serves.
class DeviceQueues final : public QueueOwner, public std::enable_shared_from_this<DeviceQueues> {
public:
    explicit DeviceQueues(Serving serving);

    [[nodiscard]] std::uint32_t part_count() const noexcept { return parts_of(serving_); }
    [[nodiscard]] static std::uint32_t parts_of(const Serving& serving) noexcept {
        return std::uint32_t{serving.info.queues} * serving.threads_per_queue;
    }

    // Opens every queue on a thread of the pool, in turn, and has it fetch. cpus: by part, where
    // its thread shall run; empty for anywhere. The pool outlives the queues.
    // Errors: those of a session's opening; ETIMEDOUT.
    [[nodiscard]] Result<void> open(QueueThreadPool& pool,
                                    const std::shared_ptr<CharDevice>& device,
                                    const std::vector<std::vector<int>>& cpus,
                                    std::chrono::milliseconds bound);
    // False when the time is over.
    bool await_closed(std::chrono::milliseconds bound);
    void await_closed();
    [[nodiscard]] bool closed();

    // The device goes on with another server: see Queue::leave. The queues close; not allowed on
    // threads that serve other devices too, because they end.
    void leave(Leaving how);
    // Tells every queue the disk's size and waits until none serves a request beyond it. False when
    // the time is over.
    [[nodiscard]] bool resize(std::uint64_t size, std::chrono::milliseconds bound);
    // Soon, by part; empty: anywhere.
    void pin_to(const std::vector<std::vector<int>>& cpus);
    // Requests that wait for operations of Io get ECANCELED for them.
    void cancel_requests();
    // The queues fail, and their threads end.
    void abandon(const Error& why);
    // What the first queue that failed met.
    [[nodiscard]] std::optional<Error> failure();

    void add_metrics(std::vector<QueueMetrics>& by_queue) const;
    [[nodiscard]] std::chrono::steady_clock::time_point began() const noexcept { return began_; }

private:
    void queue_opened() noexcept override;
    void queue_home(std::uint32_t part) noexcept override;
    void queue_left(std::uint32_t part) noexcept override;
    void queue_failed(std::uint32_t part, Error error) noexcept override;
    void queue_closed() noexcept override;

    Result<void> open_parts(QueueThreadPool& pool, const std::shared_ptr<CharDevice>& device,
                            const std::vector<std::vector<int>>& cpus,
                            std::chrono::milliseconds bound);
    Result<void> open_part(QueueThread& on, std::uint32_t part,
                           const std::shared_ptr<CharDevice>& device);
    Result<std::unique_ptr<Queue>> open_queue(QueueThread& on, std::uint32_t part,
                                              const std::shared_ptr<CharDevice>& device);
    [[nodiscard]] bool given_up();
    void quit() noexcept;
    void quit_if_left() noexcept;
    [[nodiscard]] std::uint16_t queue_of(std::uint32_t part) const noexcept {
        return static_cast<std::uint16_t>(part / serving_.threads_per_queue);
    }

    const Serving serving_;
    const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
    std::deque<LiveMetrics> metrics_;    // by part
    std::vector<QueueThread*> threads_;  // by part
    std::mutex mutex_;                   // guards what follows
    std::condition_variable changed_;
    std::uint32_t open_ = 0;
    std::vector<bool> has_left_;  // by part
    std::uint32_t left_ = 0;      // of those that are open
    std::optional<Error> failure_;
    bool given_up_ = false;  // what has not opened by now must not
};

}  // namespace ashlar
