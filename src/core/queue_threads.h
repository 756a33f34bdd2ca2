// QueueThread: one thread, its reactor and the queues it serves, of one device or of several.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <ashlar/device.h>

#include "core/queue.h"
#include "core/turn_judge.h"
#include "reactor/reactor.h"

namespace ashlar {

using ReactorFactory = std::function<Result<std::unique_ptr<Reactor>>(const ReactorOptions&)>;

class QueueThreadPool;

class QueueThread {
public:
    // Starts the thread; returns when its reactor stands. The pool, if any, outlives it.
    [[nodiscard]] static Result<std::unique_ptr<QueueThread>> create(
        const ReactorFactory& factory, const ReactorOptions& options, const std::string& name,
        QueueThreadPool* pool = nullptr);
    // Ends the thread. Its queues end with it, home or not.
    ~QueueThread();
    QueueThread(const QueueThread&) = delete;
    QueueThread& operator=(const QueueThread&) = delete;

    // Any thread: runs the call on this thread, soon. False when the thread has ended.
    bool post(std::move_only_function<void(QueueThread&)> call);
    // Any thread: ends the loop without waiting for tags to come home; the queues that are left
    // fail.
    void quit();
    // Any thread, while the pool stands: ends all threads of the pool.
    void quit_pool();
    // Waits for the thread's end and closes its ring; not on the thread itself.
    void join();
    // After join(): waits until the kernel has let go of the queues' memory, and frees it.
    void let_go();

    // The rest belongs to the thread itself.
    [[nodiscard]] Reactor& reactor() noexcept { return *reactor_; }
    [[nodiscard]] OffloadPool& offload() noexcept { return offload_; }
    void adopt(std::unique_ptr<Queue> queue);
    void drop_home_queues();
    // Of the device's queues on this thread: requests that wait for operations of Io fail.
    void cancel_requests(DeviceId device) noexcept;
    void leave(DeviceId device, Leaving how) noexcept;
    // See Queue::resize.
    [[nodiscard]] bool resize(DeviceId device, std::uint64_t size) noexcept;
    static void pin_to(const std::vector<int>& cpus) noexcept;

private:
    explicit QueueThread(QueueThreadPool* pool) noexcept : pool_(pool) {}
    void run(const ReactorFactory& factory, const ReactorOptions& options, const std::string& name,
             const std::function<void(Result<void>)>& ready);
    void serve_queues();

    QueueThreadPool* const pool_;
    std::unique_ptr<Reactor> reactor_;
    OffloadPool offload_;
    std::vector<std::unique_ptr<Queue>> queues_;
    bool quit_ = false;
    TurnJudge judge_;
    bool judges_turns_ = false;
    std::mutex mutex_;   // guards ended_, and reactor_ against post() from other threads
    bool ended_ = true;  // no reactor: before it stands, and after the loop
    std::thread thread_;
};

struct ThreadOptions {
    unsigned count = 1;
    unsigned entries = 256;
    unsigned files = 1;    // queues that one thread may have
    unsigned buffers = 0;  // slots for registered buffers
    int nice = kNiceOfDisks;
    std::optional<SubmissionPolling> polling{};
    std::chrono::microseconds busy_poll{0};
};

// The public QueueThreads.
class QueueThreadPool final : public QueueThreads {
public:
    enum class Lifetime { one_device, shared };
    [[nodiscard]] static Result<std::shared_ptr<QueueThreadPool>> create(
        const ThreadOptions& options, Lifetime lifetime, const ReactorFactory& factory,
        const std::string& name);

    // The thread for the next queue, in turn.
    [[nodiscard]] QueueThread& next() noexcept {
        return *threads_[turn_.fetch_add(1, std::memory_order_relaxed) % threads_.size()];
    }
    // Ends all threads before any of them is destroyed: the last queues to fail look at the others.
    ~QueueThreadPool() override;
    QueueThreadPool() = default;
    QueueThreadPool(const QueueThreadPool&) = delete;
    QueueThreadPool& operator=(const QueueThreadPool&) = delete;

    void quit_all();
    // Ends all threads and their rings, and waits for that. Not on one of them.
    void end();

private:
    std::mutex end_mutex_;
    std::vector<std::unique_ptr<QueueThread>> threads_;
    std::atomic<std::size_t> turn_ = 0;
};

}  // namespace ashlar
