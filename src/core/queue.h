// Queue: fetches requests from the kernel, has them served, commits the results. One request's way:
// Tag::complete -> fetched -> serve -> start -> finish -> commit, all on one thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "base/fd.h"
#include "core/tag.h"
#include "reactor/reactor.h"

namespace ashlar {

// The open /dev/ublkcN, shared by its queues: closed when the last of them is gone, which is what
// tells the kernel that the server has let go.
struct CharDevice {
    Fd fd;
};

// Who is told how a queue ends. Called on the queue's thread.
class QueueOwner {
public:
    virtual void queue_opened() noexcept = 0;
    // Every tag is home: the device was stopped, the queue may be destroyed (not in this call).
    virtual void queue_home(std::uint16_t index) noexcept = 0;
    // The queue cannot go on. Requests in flight end when the character device is closed.
    virtual void queue_failed(std::uint16_t index, Error error) noexcept = 0;
    // The queue is being destroyed and has let go of everything.
    virtual void queue_closed() noexcept = 0;

protected:
    ~QueueOwner() = default;
};

struct QueueConfig {
    DeviceId device = 0;
    std::uint16_t index = 0;
    std::uint16_t depth = 0;
    std::uint32_t io_max = 0;
    bool ioctl_commands = true;  // else the legacy opcodes of kernels before 6.4
    Capabilities capabilities;
};

// Counters of one queue. Written by the queue's thread only, so a plain load and store is enough;
// kept by the device, so that they outlive the queue.
struct alignas(64) LiveCounters {
    std::atomic<std::uint64_t> reads = 0, writes = 0, flushes = 0, discards = 0, write_zeroes = 0,
                               others = 0, read_bytes = 0, write_bytes = 0, errors = 0;

    static void add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) noexcept {
        counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    void count(const Request& request, bool failed) noexcept;
    void reset() noexcept;
    [[nodiscard]] QueueCounters snapshot() const noexcept;
};

// Thread: all of it on the reactor's thread.
class Queue {
public:
    // Maps descriptors and buffers and registers the device with the reactor; fetches nothing yet.
    [[nodiscard]] static Result<std::unique_ptr<Queue>> open(const QueueConfig& config,
                                                             std::shared_ptr<CharDevice> device,
                                                             Reactor& reactor,
                                                             std::unique_ptr<Session> session,
                                                             LiveCounters& counters,
                                                             std::shared_ptr<QueueOwner> owner);
    // Requires that no tag is with the kernel, or that the reactor is gone.
    ~Queue();
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    // Queues a fetch for every tag; they leave in one submission.
    void fetch_all() noexcept;
    [[nodiscard]] bool home() const noexcept { return tags_home_ == config_.depth; }
    // The thread cannot go on: tells the owner.
    void fail(int code) noexcept;
    // The reactor was destroyed before this queue: nothing is with the kernel any more.
    void reactor_gone() noexcept { reactor_ = nullptr; }

private:
    friend class Tag;
    Queue(const QueueConfig& config, std::shared_ptr<CharDevice> device, Reactor& reactor,
          std::unique_ptr<Session> session, LiveCounters& counters,
          std::shared_ptr<QueueOwner> owner) noexcept;

    Result<void> map_memory();
    void make_tags();
    void fetched(Tag& tag, std::int32_t result) noexcept;
    void not_fetched(Tag& tag, std::int32_t result) noexcept;
    void serve(Tag& tag) noexcept;
    void start(Tag& tag, const Request& request) noexcept;
    void finish(Tag& tag, IoResult result) noexcept;
    void commit(Tag& tag, IoResult result) noexcept;
    void submit(Tag& tag) noexcept;
    [[nodiscard]] int refusal(const Request& request) const noexcept;

    const QueueConfig config_;
    std::shared_ptr<CharDevice> device_;
    Reactor* reactor_;
    FileSlot file_ = 0;
    bool file_registered_ = false;
    std::unique_ptr<Session> session_;
    LiveCounters& counters_;
    std::shared_ptr<QueueOwner> owner_;  // also keeps counters_ alive
    Mapping descriptors_;                // written by the kernel
    Mapping buffers_;
    Mapping arenas_;
    std::deque<Tag> tags_;  // never moves an element
    std::uint32_t tags_home_ = 0;
    bool failed_ = false;
};

}  // namespace ashlar
