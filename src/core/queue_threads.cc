#include "core/queue_threads.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <future>
#include <system_error>
#include <utility>

#include "base/thread_scheduling.h"
#include "base/tick_clock.h"
#include "kernel/features.h"

namespace ashlar {
namespace {

constexpr unsigned kThreadsMax = 1024;
// Devices with a queue on one thread. With the one more that a ring has it is the usual limit of
// descriptors, beyond which a table of files is refused.
constexpr unsigned kFilesPerThread = 1023;
constexpr unsigned kBuffersPerThread = 16384;  // their tags on the zero copy path
constexpr std::chrono::seconds kRingEnds{10};

// Signals are the business of the program's own threads.
class BlockedSignals {
public:
    BlockedSignals() noexcept {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

private:
    sigset_t before_;
};

}  // namespace

Result<std::unique_ptr<QueueThread>> QueueThread::create(const ReactorFactory& factory,
                                                         const ReactorOptions& options,
                                                         const std::string& name,
                                                         QueueThreadPool* pool) {
    std::unique_ptr<QueueThread> self(new QueueThread(pool));
    std::promise<Result<void>> ready;
    auto stands = ready.get_future();
    try {
        const BlockedSignals blocked;
        self->thread_ = std::thread(
            [&self = *self, factory, options, name, ready = std::move(ready)]() mutable {
                self.run(factory, options, name,
                         [&ready](Result<void> result) { ready.set_value(std::move(result)); });
            });
    } catch (const std::system_error& error) {
        return std::unexpected(Error{.operation = "start a queue thread",
                                     .code = error.code().value(),
                                     .hint = "raise the limit on processes (ulimit -u)"});
    }
    if (auto result = stands.get(); !result) return std::unexpected(result.error());
    return self;
}

QueueThread::~QueueThread() {
    quit();
    join();
    let_go();
}

void QueueThread::join() {
    if (!thread_.joinable()) return;
    thread_.join();
    if (reactor_ != nullptr) reactor_->close();
}

void QueueThread::let_go() {
    if (reactor_ != nullptr && !reactor_->await_end(kRingEnds)) {
        // Rather lost than written to by the kernel when somebody else has it.
        for (auto& queue : queues_) static_cast<void>(queue.release());
        static_cast<void>(reactor_.release());
    }
    queues_.clear();
    reactor_.reset();
}

bool QueueThread::post(std::move_only_function<void(QueueThread&)> call) {
    const std::lock_guard lock(mutex_);
    if (ended_) return false;
    reactor_->post([this, call = std::move(call)]() mutable { call(*this); });
    return true;
}

void QueueThread::quit() {
    post([](QueueThread& self) { self.quit_ = true; });
}

void QueueThread::quit_pool() {
    if (pool_ != nullptr) pool_->quit_all();
}

void QueueThread::run(const ReactorFactory& factory, const ReactorOptions& options,
                      const std::string& name, const std::function<void(Result<void>)>& ready) {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    auto reactor = factory(options);
    if (!reactor) return ready(std::unexpected(reactor.error()));
    {
        const std::lock_guard lock(mutex_);
        reactor_ = std::move(*reactor);
        ended_ = false;
    }
    ready({});
    // A kernel thread that polls needs no turn of this one, and schedulers before this one have a
    // thread that gathers wait for longer.
    judges_turns_ =
        !options.polling && kernel::running_kernel_version() >= kernel::since::deadline_scheduler;
    serve_queues();
    {
        const std::lock_guard lock(mutex_);
        ended_ = true;
    }
    // With the ring still open: the kernel then knows that it is the server that ends, and sends
    // no more requests to a thread that does not look.
    for (auto& queue : queues_) queue->thread_ends();
    reactor_->thread_ends();
}

void QueueThread::serve_queues() {
    const auto now = [clock = TickClock::monotonic()] { return clock.now(); };
    int code = 0;
    while (code == 0 && !quit_) {
        code = reactor_->run_once(std::nullopt);
        if (judges_turns_ && judge_.round(reactor_->take_brought(), now)) [[unlikely]]
            judges_turns_ = set_thread_turns(judge_.turns());
    }
    for (auto& queue : queues_) queue->fail(code != 0 ? code : ECANCELED);
}

void QueueThread::adopt(std::unique_ptr<Queue> queue) { queues_.push_back(std::move(queue)); }

void QueueThread::drop_home_queues() {
    std::erase_if(queues_, [](const std::unique_ptr<Queue>& queue) { return queue->home(); });
}

void QueueThread::cancel_requests(DeviceId device) noexcept {
    for (auto& queue : queues_) {
        if (queue->config().device == device) queue->cancel_requests();
    }
}

void QueueThread::leave(DeviceId device, Leaving how) noexcept {
    for (auto& queue : queues_) {
        if (queue->config().device == device) queue->leave(how);
    }
}

bool QueueThread::resize(DeviceId device, std::uint64_t size) noexcept {
    bool beyond = false;
    for (auto& queue : queues_) {
        if (queue->config().device == device) beyond |= queue->resize(size);
    }
    return beyond;
}

void QueueThread::pin_to(const std::vector<int>& cpus) noexcept {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) {
        if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    }
    // A hint: where the process may not run there (cgroup cpusets), it stays where it is.
    if (CPU_COUNT(&set) > 0) sched_setaffinity(0, sizeof(set), &set);
}

Result<std::shared_ptr<QueueThreadPool>> QueueThreadPool::create(const ThreadOptions& options,
                                                                 Lifetime lifetime,
                                                                 const ReactorFactory& factory,
                                                                 const std::string& name) {
    const auto refused = [](const char* detail) {
        return std::unexpected(
            Error{.operation = "start queue threads", .code = EINVAL, .detail = detail});
    };
    if (options.count == 0 || options.count > kThreadsMax)
        return refused("count must be 1 to 1024");
    if (options.busy_poll < options.busy_poll.zero() || options.busy_poll > kBusyPollMost) {
        return refused("busy_poll must be 0 to 1000 microseconds");
    }
    ReactorOptions ring{.entries = options.entries,
                        .files = options.files,
                        .buffers = options.buffers,
                        .polling = options.polling,
                        .busy_poll = options.busy_poll};
    // A device's own rings end with it; shared ones outlive it.
    ring.register_files = lifetime == Lifetime::one_device ||
                          kernel::running_kernel_version() >= kernel::since::prompt_file_release;
    auto pool = std::make_shared<QueueThreadPool>();
    for (unsigned index = 0; index < options.count; ++index) {
        auto thread = QueueThread::create(factory, ring, name + std::to_string(index), pool.get());
        if (!thread) return std::unexpected(thread.error());
        // Not before its ring stands: a thread of the kernel that polls it has no such right.
        (*thread)->post([nice = options.nice](QueueThread&) { set_thread_nice(nice); });
        pool->threads_.push_back(std::move(*thread));
    }
    return pool;
}

QueueThreadPool::~QueueThreadPool() { end(); }

void QueueThreadPool::end() {
    const std::lock_guard lock(end_mutex_);
    quit_all();
    for (auto& thread : threads_) thread->join();
    for (auto& thread : threads_) thread->let_go();
}

void QueueThreadPool::quit_all() {
    for (auto& thread : threads_) thread->quit();
}

Result<std::shared_ptr<QueueThreads>> QueueThreads::create(Options options) {
    auto pool =
        QueueThreadPool::create({.count = options.count,
                                 .entries = options.entries,
                                 .files = kFilesPerThread,
                                 .buffers = kBuffersPerThread,
                                 .nice = options.nice,
                                 .polling = options.polling,
                                 .busy_poll = options.busy_poll},
                                QueueThreadPool::Lifetime::shared, open_uring_reactor, "ashlar-q");
    if (!pool) return std::unexpected(pool.error());
    return std::shared_ptr<QueueThreads>(std::move(*pool));
}

}  // namespace ashlar
