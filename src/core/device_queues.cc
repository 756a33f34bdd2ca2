#include "core/device_queues.h"

#include <sched.h>
#include <cerrno>
#include <future>
#include <numeric>
#include <string>
#include <thread>
#include <utility>

#include "kernel/abi.h"

namespace ashlar {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds kLookAgain{1};
}  // namespace

DeviceQueues::DeviceQueues(Serving serving)
    : serving_(std::move(serving)), has_left_(parts_of(serving_)) {
    for (std::uint32_t part = 0; part < part_count(); ++part) metrics_.emplace_back(serving_.timed);
}

// ---- Opening -----------------------------------------------------------------------------------

bool DeviceQueues::given_up() {
    const std::lock_guard lock(mutex_);
    return given_up_;
}

// On that thread. It counts as open from before it looks, so that whoever gives up either is seen
// or waits for it.
Result<void> DeviceQueues::open_part(QueueThread& on, std::uint32_t part,
                                     const std::shared_ptr<CharDevice>& device) {
    queue_opened();
    Result<void> opened;
    const auto late = [&] {
        if (!given_up()) return false;
        opened = std::unexpected(Error{.operation = "open a queue",
                                       .code = ECANCELED,
                                       .device = serving_.info.id,
                                       .detail = "the device's start was given up"});
        return true;
    };
    if (!late()) {
        auto queue = open_queue(on, part, device);
        if (!queue) {
            opened = std::unexpected(queue.error());
        } else if (!late()) {
            (*queue)->fetch_all();
            on.adopt(std::move(*queue));
        }
    }
    queue_closed();
    return opened;
}

Result<std::unique_ptr<Queue>> DeviceQueues::open_queue(QueueThread& on, std::uint32_t part,
                                                        const std::shared_ptr<CharDevice>& device) {
    const DeviceInfo& info = serving_.info;
    const bool may_copy = (info.features & kernel::abi::f_user_copy) != 0;
    const QueueConfig config{
        .device = info.id,
        .index = queue_of(part),
        .depth = info.depth,
        .first_tag = static_cast<std::uint16_t>(part % serving_.threads_per_queue),
        .tag_step = serving_.threads_per_queue,
        .io_max = info.io_max,
        .size = serving_.size,
        .ioctl_commands = (info.features & kernel::abi::f_cmd_ioctl_encode) != 0,
        .data_path = serving_.choices.data_path,
        .commands = serving_.choices.commands,
        .access = serving_.backend->data_access(),
        .capabilities = serving_.capabilities,
        .zone_size = serving_.zone_size,
        .metadata = serving_.metadata,
        .shared =
            serving_.shared ? serving_.shared->buffers() : std::span<const std::span<std::byte>>(),
        .copied_write_max = may_copy ? serving_.backend->copied_write_max() : 0,
    };
    return Queue::open(config, {.reactor = on.reactor(),
                                .offload = on.offload(),
                                .metrics = metrics_[part],
                                .observer = serving_.observer.get(),
                                .device = device,
                                .backend = serving_.backend,
                                .owner = shared_from_this(),
                                .part = part});
}

Result<void> DeviceQueues::open(QueueThreadPool& pool, const std::shared_ptr<CharDevice>& device,
                                const std::vector<std::vector<int>>& cpus, milliseconds bound) {
    auto opened = open_parts(pool, device, cpus, bound);
    if (opened) return opened;
    const std::lock_guard lock(mutex_);
    given_up_ = true;
    return opened;
}

Result<void> DeviceQueues::open_parts(QueueThreadPool& pool,
                                      const std::shared_ptr<CharDevice>& device,
                                      const std::vector<std::vector<int>>& cpus,
                                      milliseconds bound) {
    struct Progress {
        std::mutex mutex;
        std::condition_variable changed;
        std::uint32_t pending = 0;
        std::optional<Error> first_error{};

        void note(const Result<void>& opened) {
            const std::lock_guard lock(mutex);
            if (!opened && !first_error) first_error = opened.error();
            --pending;
            changed.notify_all();
        }
    };
    // Shared: a thread that answers after the bound must still find it.
    auto progress = std::make_shared<Progress>();
    progress->pending = part_count();
    for (std::uint32_t part = 0; part < part_count(); ++part) threads_.push_back(&pool.next());
    for (std::uint32_t part = 0; part < part_count(); ++part) {
        const bool posted = threads_[part]->post(
            [self = shared_from_this(), part, device, progress,
             pinned_to = cpus.empty() ? std::vector<int>{} : cpus[part]](QueueThread& on) {
                if (!pinned_to.empty()) QueueThread::pin_to(pinned_to);
                auto opened = self->open_part(on, part, device);
                // Told a round later: by then a fetch that the kernel refuses has come back.
                on.post([progress, opened = std::move(opened)](QueueThread&) {
                    progress->note(opened);
                });
            });
        if (!posted) {
            return std::unexpected(Error{.operation = "open a queue",
                                         .code = ECANCELED,
                                         .device = serving_.info.id,
                                         .detail = "its thread has ended"});
        }
    }
    std::unique_lock lock(progress->mutex);
    if (!progress->changed.wait_for(lock, bound, [&] { return progress->pending == 0; })) {
        return std::unexpected(Error{.operation = "open the queues",
                                     .code = ETIMEDOUT,
                                     .device = serving_.info.id,
                                     .detail = "a backend did not open in time"});
    }
    if (progress->first_error) return std::unexpected(*progress->first_error);
    // Older drivers start a device whose tags were not all fetched, and hang on its first read.
    if (auto failed = failure()) return std::unexpected(*failed);
    return {};
}

// ---- How queues end; on their threads ----------------------------------------------------------

void DeviceQueues::queue_opened() noexcept {
    const std::lock_guard lock(mutex_);
    ++open_;
}

void DeviceQueues::queue_home(std::uint32_t part) noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (has_left_[part]) --left_;
        has_left_[part] = false;
    }
    // Its thread is in the middle of a round with this queue, which is dropped after it.
    threads_[part]->post([](QueueThread& self) { self.drop_home_queues(); });
}

void DeviceQueues::queue_left(std::uint32_t part) noexcept {
    {
        const std::lock_guard lock(mutex_);
        has_left_[part] = true;
        ++left_;
    }
    quit_if_left();
}

void DeviceQueues::queue_failed(std::uint32_t, Error error) noexcept {
    // A ring lets go of the kernel's commands only when it ends; so do the rings of the other
    // queues, which would wait for ever for requests that this one holds.
    abandon(error);
}

void DeviceQueues::queue_closed() noexcept {
    bool last = false;
    {
        const std::lock_guard lock(mutex_);
        last = --open_ == 0;
        changed_.notify_all();
    }
    quit_if_left();
    if (last && serving_.on_end) serving_.on_end();
}

// What the queues still have fetched comes back only with the end of their rings.
void DeviceQueues::quit_if_left() noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (left_ == 0 || left_ < open_) return;
    }
    quit();
}

void DeviceQueues::quit() noexcept {
    if (!threads_.empty()) threads_.front()->quit_pool();
}

// ---- What the device asks ----------------------------------------------------------------------

bool DeviceQueues::await_closed(milliseconds bound) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, bound, [&] { return open_ == 0; });
}

void DeviceQueues::await_closed() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_ == 0; });
}

bool DeviceQueues::closed() {
    const std::lock_guard lock(mutex_);
    return open_ == 0;
}

void DeviceQueues::leave(Leaving how) {
    for (QueueThread* thread : threads_) {
        thread->post([id = serving_.info.id, how](QueueThread& self) { self.leave(id, how); });
    }
}

bool DeviceQueues::resize(std::uint64_t size, milliseconds bound) {
    const auto deadline = std::chrono::steady_clock::now() + bound;
    for (QueueThread* thread : threads_) {
        for (;;) {
            // Shared: a thread that answers after the bound must still find it.
            auto beyond = std::make_shared<std::promise<bool>>();
            auto answer = beyond->get_future();
            const bool posted =
                thread->post([id = serving_.info.id, size, beyond](QueueThread& on) {
                    beyond->set_value(on.resize(id, size));
                });
            if (!posted) break;  // it has ended, and serves nothing
            if (answer.wait_until(deadline) != std::future_status::ready) return false;
            if (!answer.get()) break;
            if (std::chrono::steady_clock::now() >= deadline) return false;
            std::this_thread::sleep_for(kLookAgain);
        }
    }
    return true;
}

void DeviceQueues::pin_to(const std::vector<std::vector<int>>& cpus) {
    std::vector<int> anywhere(CPU_SETSIZE);
    std::iota(anywhere.begin(), anywhere.end(), 0);
    for (std::size_t part = 0; part < threads_.size(); ++part) {
        threads_[part]->post([wanted = cpus.empty() ? anywhere : cpus[part]](QueueThread&) {
            QueueThread::pin_to(wanted);
        });
    }
}

void DeviceQueues::cancel_requests() {
    for (QueueThread* thread : threads_) {
        thread->post([id = serving_.info.id](QueueThread& self) { self.cancel_requests(id); });
    }
}

void DeviceQueues::abandon(const Error& why) {
    {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = why;
    }
    quit();
}

std::optional<Error> DeviceQueues::failure() {
    const std::lock_guard lock(mutex_);
    return failure_;
}

void DeviceQueues::add_metrics(std::vector<QueueMetrics>& by_queue) const {
    for (std::uint32_t part = 0; part < metrics_.size(); ++part) {
        metrics_[part].add_to(by_queue[queue_of(part)]);
    }
}

}  // namespace ashlar
