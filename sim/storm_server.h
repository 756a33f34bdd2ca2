// Server: the real queues of one device on simulated rings. It stands where Device and its threads
// stand in a real program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "core/queue.h"
#include "sim/sim_driver.h"
#include "sim/sim_reactor.h"

namespace ashlar::sim {

struct ServerOptions {
    DeviceChoices choices{};
    Capabilities capabilities{};
    std::uint16_t queues = 1;
    std::uint16_t depth = 1;
    std::uint16_t threads_per_queue = 1;
    std::uint32_t io_max = 4096;
    bool ioctl_commands = true;
    bool user_copies = false;  // the device lets it
    unsigned threads = 1;
    unsigned entries = 256;
    FileFaults faults{};
};

class Server final : public QueueOwner, public std::enable_shared_from_this<Server> {
public:
    // backend and driver outlive it; so does rings, which keeps what was a ring to the end.
    Server(SimKernel& kernel, SimDriver& driver, const ServerOptions& options,
           std::shared_ptr<Backend> backend, std::vector<std::unique_ptr<SimReactor>>& rings);

    // Opens the character device and all queues, and fetches. then: on success.
    void open(std::function<void(std::optional<Error>)> then);
    // Its threads end, as when one of them cannot go on.
    void quit();
    // The process is killed: nothing of it runs any more.
    void kill();
    // One of its threads cannot go on.
    void break_down(unsigned thread, int code);
    void cancel_requests();
    void leave(Leaving how);

    // All queues have let go of the device.
    [[nodiscard]] bool closed() const noexcept { return opened_ && open_ == 0; }
    // All threads have ended, and nothing of them is left.
    [[nodiscard]] bool gone() const noexcept;
    [[nodiscard]] bool failed() const noexcept { return failure_.has_value(); }
    [[nodiscard]] bool killed() const noexcept { return killed_; }
    [[nodiscard]] std::string describe() const;
    // When all queues came home: what they did not give back. Empty if nothing.
    [[nodiscard]] std::string leaks() const;
    // The simulation ends here and now.
    void destroy();
    // Told when closed() or gone() may have become true.
    std::function<void()> on_change;

private:
    struct Thread {
        SimReactor* reactor = nullptr;
        OffloadPool offload{};
        std::vector<std::unique_ptr<Queue>> queues{};
        bool quit = false;
        bool ended = false;   // its loop
        bool joined = false;  // and all of it
        bool awake = false;   // it is about to run
    };

    void queue_opened() noexcept override;
    void queue_home(std::uint32_t part) noexcept override;
    void queue_left(std::uint32_t part) noexcept override;
    void queue_failed(std::uint32_t part, Error error) noexcept override;
    void queue_closed() noexcept override;

    void open_part(std::uint32_t part);
    void opened(std::optional<Error> error);
    void wake(Thread& thread);
    void run(Thread& thread);
    void end(Thread& thread, int code);
    void close(Thread& thread);
    void join(Thread& thread);
    void look_at_device();
    Thread& thread_of(std::uint32_t part) { return threads_[part % threads_.size()]; }

    SimKernel& kernel_;
    SimDriver& driver_;
    const ServerOptions options_;
    const std::shared_ptr<Backend> backend_;
    std::deque<Thread> threads_;
    std::deque<LiveMetrics> metrics_;     // by part
    std::shared_ptr<CharDevice> device_;  // while it opens
    std::weak_ptr<CharDevice> watch_;
    int fd_ = -1;
    bool released_ = false;
    bool opened_ = false;
    bool killed_ = false;
    std::uint32_t pending_ = 0;  // parts that are being opened
    std::uint32_t open_ = 0;
    std::vector<bool> has_left_;  // by part
    std::uint32_t left_ = 0;      // of those that are open
    std::optional<Error> failure_{};
    std::function<void(std::optional<Error>)> then_;
};

}  // namespace ashlar::sim
