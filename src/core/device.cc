// The staged lifecycle: created -> serving -> stopping -> stopped (-> serving ...) -> removed.
#include <ashlar/device.h>

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "base/random.h"
#include "core/child_control.h"
#include "core/choices.h"
#include "core/device_options.h"
#include "core/queue.h"
#include "core/queue_threads.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr unsigned kEntriesMost = 32'768;
constexpr auto kRetryInterval = milliseconds(2);

}  // namespace

struct Device::State final : QueueOwner, std::enable_shared_from_this<State> {
    State(Control used_control, std::shared_ptr<Backend> used_backend, DeviceOptions used_options)
        : control(std::move(used_control)),
          backend(std::move(used_backend)),
          options(std::move(used_options)) {}

    // QueueOwner: called on queue threads.
    void queue_home(std::uint16_t part) noexcept override {
        // Its thread is in the middle of a round with this queue, which is dropped after it.
        queue_threads[part]->post([](QueueThread& self) { self.drop_home_queues(); });
    }
    void queue_failed(std::uint16_t part, Error error) noexcept override {
        {
            const std::lock_guard lock(mutex);
            if (!failure) failure = std::move(error);
        }
        // A ring lets go of the kernel's commands only when it ends; so do the rings of the other
        // queues, which would wait for ever for requests that this one holds.
        queue_threads[part]->quit_pool();
    }
    void queue_opened() noexcept override {
        const std::lock_guard lock(mutex);
        ++open_queues;
    }
    void queue_closed() noexcept override {
        const std::lock_guard lock(mutex);
        --open_queues;
        changed.notify_all();
    }

    Error error(std::string operation, int code, std::string detail = {}) const {
        return Error{.operation = std::move(operation),
                     .code = code,
                     .device = info.id,
                     .detail = std::move(detail)};
    }

    Result<void> add(std::optional<DeviceId> id);
    Result<void> start();
    Result<void> renew();
    Result<void> stop();
    Result<void> remove();
    Result<std::shared_ptr<CharDevice>> open_char_device();
    Result<void> make_threads();
    Result<void> open_queues_on_threads(const std::shared_ptr<CharDevice>& device);
    // A queue is served in threads_per_queue parts, each by one thread. A part is known by its
    // place in queue_threads.
    Result<void> open_part(QueueThread& on, std::uint16_t part,
                           const std::shared_ptr<CharDevice>& device);
    [[nodiscard]] std::uint16_t queue_of(std::uint16_t part) const noexcept {
        return part / options.threads_per_queue;
    }
    [[nodiscard]] std::uint16_t part_count() const noexcept {
        return static_cast<std::uint16_t>(info.queues * options.threads_per_queue);
    }
    // Of the device's own threads.
    [[nodiscard]] unsigned thread_count() const noexcept {
        const unsigned wanted =
            options.thread_count != 0 ? options.thread_count : backend->best_threads();
        return wanted != 0 ? std::min<unsigned>(wanted, part_count()) : part_count();
    }
    Result<void> serve(const std::shared_ptr<CharDevice>& device);
    bool await_queues_closed(milliseconds bound);
    void settle();
    void give_up();
    void cancel_requests();
    Result<void> abandon(Error why);

    Control control;
    std::shared_ptr<Backend> backend;
    const DeviceOptions options;
    DeviceInfo info;
    Geometry geometry;
    Capabilities capabilities;
    Choice choice;
    bool restartable = false;            // the driver can start a stopped device again
    std::vector<LiveCounters> counters;  // by part

    std::vector<QueueThread*> queue_threads;  // by part; the pool owns them

    mutable std::mutex mutex;  // guards what follows
    std::condition_variable changed;
    std::shared_ptr<QueueThreadPool> pool;
    DeviceStage stage = DeviceStage::created;
    unsigned open_queues = 0;
    std::optional<Error> failure;
};

Result<Device> Device::create(std::shared_ptr<Backend> backend, const DeviceOptions& options) {
    ASHLAR_ASSERT(backend != nullptr);
    const Geometry geometry = backend->geometry();
    Capabilities capabilities = backend->capabilities();
    capabilities.read_only |= options.read_only;
    if (auto valid = check_device_options(options, geometry); !valid)
        return std::unexpected(valid.error());

    auto control = Control::open({.timeout = options.timeout});
    if (!control) return std::unexpected(control.error());
    auto features = control->features();
    if (!features) return std::unexpected(features.error());
    auto choice = choose({.data_path = options.data_path,
                          .commands = options.commands,
                          .threads_per_queue = options.threads_per_queue,
                          .access = backend->data_access(),
                          .offered = *features});
    if (!choice) return std::unexpected(choice.error());
    auto state = std::make_shared<State>(std::move(*control), std::move(backend), options);
    state->choice = std::move(*choice);
    state->geometry = geometry;
    state->capabilities = capabilities;
    // Drivers before 6.16 keep a stopped device's tags as fetched. No flag tells, but QUIESCE came
    // with the same release.
    state->restartable = (*features & kernel::abi::f_quiesce) != 0;
    if (auto added = state->add(options.id); !added) return std::unexpected(added.error());
    state->counters = std::vector<LiveCounters>(state->part_count());
    state->choice.choices.threads = state->thread_count();
    return Device(std::move(state));
}

// Adds the device to the kernel with its parameters; on failure nothing is left.
Result<void> Device::State::add(std::optional<DeviceId> id) {
    auto added = control.add({.id = id,
                              .queues = options.queues,
                              .depth = options.depth,
                              .io_max = options.io_max,
                              .features = choice.features,
                              .identity = random_nonzero()});
    if (!added) return std::unexpected(added.error());
    info = *added;
    Result<void> set;
    if (const std::uint64_t missing = choice.features & ~info.features; missing != 0) {
        set = std::unexpected(error("add device", EOPNOTSUPP,
                                    "the kernel did not grant " + feature_names(missing).front() +
                                        "; choose another data path or kind of commands"));
    } else {
        set = control.set_params(info.id, geometry, capabilities, info.io_max);
    }
    // The first error is the one to tell; a removal that fails too leaves a dead device.
    if (!set) static_cast<void>(control.remove(info.id));
    return set;
}

// A fresh device with the same id in place of one that the driver cannot start again.
Result<void> Device::State::renew() {
    const DeviceId id = info.id;
    Result<void> step = control.remove(id);
    if (step) step = add(id);
    if (!step) {
        // Removal may end later, when the last holder of the block device closes it.
        const std::lock_guard lock(mutex);
        stage = DeviceStage::removed;
    }
    return step;
}

// The kernel allows one open at a time and ends the last one a moment after its close.
Result<std::shared_ptr<CharDevice>> Device::State::open_char_device() {
    const std::string path = "/dev/ublkc" + std::to_string(info.id);
    const auto deadline = steady_clock::now() + options.timeout;
    while (true) {
        Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
        if (fd.valid()) return std::make_shared<CharDevice>(std::move(fd));
        const int code = errno;
        // ENOENT: udev or devtmpfs has not made the node yet.
        if ((code != EBUSY && code != ENOENT && code != EINTR) || steady_clock::now() >= deadline) {
            return std::unexpected(error("open " + path, code));
        }
        std::this_thread::sleep_for(kRetryInterval);
    }
}

Result<void> Device::State::make_threads() {
    std::shared_ptr<QueueThreadPool> used;
    if (options.threads != nullptr) {
        used = std::static_pointer_cast<QueueThreadPool>(options.threads);
    } else {
        // At most so many queues, or parts of them, are one thread's.
        const unsigned queues_of_one = (part_count() + thread_count() - 1) / thread_count();
        auto own = QueueThreadPool::create(
            {.count = thread_count(),
             // Each request has a commit and an operation of its backend under way in a round.
             .entries = std::min(info.depth * 2 * queues_of_one, kEntriesMost),
             .files = queues_of_one,
             .buffers = info.depth * queues_of_one,
             .nice = options.nice,
             .polling = options.polling},
            QueueThreadPool::Lifetime::one_device, open_uring_reactor,
            "ublk" + std::to_string(info.id) + "-q");
        if (!own) return std::unexpected(own.error());
        used = std::move(*own);
    }
    queue_threads.clear();
    for (std::uint16_t part = 0; part < part_count(); ++part) {
        queue_threads.push_back(&used->next());
    }
    const std::lock_guard lock(mutex);
    pool = std::move(used);
    return {};
}

// On that thread.
Result<void> Device::State::open_part(QueueThread& on, std::uint16_t part,
                                      const std::shared_ptr<CharDevice>& device) {
    const QueueConfig config{
        .device = info.id,
        .index = queue_of(part),
        .depth = info.depth,
        .first_tag = static_cast<std::uint16_t>(part % options.threads_per_queue),
        .tag_step = options.threads_per_queue,
        .io_max = info.io_max,
        .ioctl_commands = (info.features & kernel::abi::f_cmd_ioctl_encode) != 0,
        .data_path = choice.choices.data_path,
        .commands = choice.choices.commands,
        .access = backend->data_access(),
        .capabilities = capabilities,
    };
    auto queue = Queue::open(config, {.reactor = on.reactor(),
                                      .offload = on.offload(),
                                      .counters = counters[part],
                                      .device = device,
                                      .backend = backend,
                                      .owner = shared_from_this(),
                                      .part = part});
    if (!queue) return std::unexpected(queue.error());
    (*queue)->fetch_all();
    on.adopt(std::move(*queue));
    return {};
}

Result<void> Device::State::open_queues_on_threads(const std::shared_ptr<CharDevice>& device) {
    struct Progress {
        std::mutex mutex;
        std::condition_variable changed;
        unsigned pending = 0;
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
    // Where the kernel sends a queue's requests, if its thread has nothing else to do.
    const bool pinned = options.threads == nullptr && thread_count() == part_count();
    for (std::uint16_t part = 0; part < part_count(); ++part) {
        std::vector<int> cpus;
        if (pinned) {
            auto affinity = control.queue_affinity(info.id, queue_of(part));
            if (!affinity) return std::unexpected(affinity.error());
            cpus = std::move(*affinity);
        }
        const bool posted =
            queue_threads[part]->post([self = shared_from_this(), part, device, progress,
                                       cpus = std::move(cpus)](QueueThread& on) {
                if (!cpus.empty()) QueueThread::pin_to(cpus);
                auto opened = self->open_part(on, part, device);
                // Told a round later: by then a fetch that the kernel refuses has come back.
                on.post([progress, opened = std::move(opened)](QueueThread&) {
                    progress->note(opened);
                });
            });
        if (!posted)
            return std::unexpected(error("open a queue", ECANCELED, "its thread has ended"));
    }
    std::unique_lock lock(progress->mutex);
    if (!progress->changed.wait_for(lock, options.timeout,
                                    [&] { return progress->pending == 0; })) {
        return std::unexpected(
            error("open the queues", ETIMEDOUT, "a backend did not open in time"));
    }
    if (progress->first_error) return std::unexpected(*progress->first_error);
    return {};
}

Result<void> Device::State::serve(const std::shared_ptr<CharDevice>& device) {
    if (auto made = make_threads(); !made) return made;
    if (auto opened = open_queues_on_threads(device); !opened) return opened;
    {
        // Older drivers start a device whose tags were not all fetched, and hang on its first read.
        const std::lock_guard lock(mutex);
        if (failure) return std::unexpected(*failure);
    }
    return start_from_child(info.id, getpid(), options.timeout);
}

Result<void> Device::State::start() {
    bool again = false;
    {
        const std::lock_guard lock(mutex);
        again = stage == DeviceStage::stopped;
        if (stage != DeviceStage::created && stage != DeviceStage::stopped) {
            return std::unexpected(error("start device", EBUSY,
                                         "it is " + std::string(name(stage)) +
                                             "; only a created or stopped device can start"));
        }
        failure.reset();
    }
    if (again && !restartable) {
        if (auto renewed = renew(); !renewed) return renewed;
    }
    auto device = open_char_device();
    if (!device) return std::unexpected(device.error());
    for (LiveCounters& queue : counters) queue.reset();
    auto served = serve(*device);
    device->reset();
    if (!served) {
        give_up();
        const std::lock_guard lock(mutex);
        // What a queue ran into is the cause; that START_DEV then failed is the consequence.
        return failure ? std::unexpected(*failure) : served;
    }
    const std::lock_guard lock(mutex);
    stage = DeviceStage::serving;
    return {};
}

// A start that failed: brings home what was fetched, so that the device is as before.
void Device::State::give_up() {
    static_cast<void>(stop_from_child(info.id, options.timeout));
    if (!await_queues_closed(options.timeout)) {
        for (QueueThread* thread : queue_threads) thread->quit_pool();
    }
    std::shared_ptr<QueueThreadPool> ended;
    const std::lock_guard lock(mutex);
    ended.swap(pool);
}

bool Device::State::await_queues_closed(milliseconds bound) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, bound, [&] { return open_queues == 0; });
}

// All queues are closed: ends the device's own threads and their rings. Both stop() and wait() get
// here; the second finds nothing to do.
void Device::State::settle() {
    std::shared_ptr<QueueThreadPool> ended;  // joined without the lock, which its threads may want
    {
        const std::lock_guard lock(mutex);
        if (stage != DeviceStage::serving && stage != DeviceStage::stopping) return;
        stage = failure ? DeviceStage::failed : DeviceStage::stopped;
        ended.swap(pool);
    }
}

// An unanswered request keeps the kernel from stopping the device, and this process from ending.
// Closing the rings and the character device fails it and frees all.
Result<void> Device::State::abandon(Error why) {
    {
        const std::lock_guard lock(mutex);
        if (!failure) failure = why;
    }
    for (QueueThread* thread : queue_threads) thread->quit_pool();
    if (await_queues_closed(options.timeout)) settle();
    return std::unexpected(std::move(why));
}

// The backend has had its time: what its requests wait for is cancelled, so that they end.
void Device::State::cancel_requests() {
    for (QueueThread* thread : queue_threads) {
        thread->post([id = info.id](QueueThread& self) { self.cancel_requests(id); });
    }
}

Result<void> Device::State::stop() {
    {
        const std::lock_guard lock(mutex);
        if (stage != DeviceStage::serving && stage != DeviceStage::stopping) return {};
        stage = DeviceStage::stopping;
    }
    auto stopped = stop_from_child(info.id, options.timeout);
    const int code = stopped ? 0 : stopped.error().code;
    if (code == ETIMEDOUT)
        cancel_requests();
    else if (code != 0 && code != ENODEV)
        return stopped;
    if (await_queues_closed(options.timeout)) {
        settle();
        return {};
    }
    return abandon(error("stop device", ETIMEDOUT,
                         "the backend did not answer every request in time; those failed"));
}

Result<void> Device::State::remove() {
    const auto stopped = stop();
    {
        const std::lock_guard lock(mutex);
        if (stage == DeviceStage::removed) return {};
        if (open_queues != 0) return stopped;
    }
    // Another process may have been faster, and the id mean another device by now.
    const auto now = control.info(info.id);
    if (now && now->identity == info.identity) {
        if (auto removed = control.remove(info.id); !removed && removed.error().code != ENODEV) {
            return removed;
        }
    }
    const std::lock_guard lock(mutex);
    stage = DeviceStage::removed;
    return stopped;
}

Device::Device(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
Device::Device(Device&&) noexcept = default;

Device& Device::operator=(Device&& other) noexcept {
    if (this != &other) {
        const Device old(std::move(*this));
        state_ = std::move(other.state_);
    }
    return *this;
}

Device::~Device() {
    if (state_ == nullptr) return;
    // Nobody is left to hear an error; what cannot be removed shows up as dead in the list.
    static_cast<void>(state_->remove());
    // A thread that is still inside its backend is waited for: it uses what is being destroyed.
    std::shared_ptr<QueueThreadPool> ended;
    const std::lock_guard lock(state_->mutex);
    ended.swap(state_->pool);
}

Result<void> Device::start() { return state_->start(); }

Result<void> Device::wait() {
    {
        std::unique_lock lock(state_->mutex);
        if (state_->stage == DeviceStage::created) return {};
        state_->changed.wait(lock, [&] { return state_->open_queues == 0; });
    }
    state_->settle();
    const std::lock_guard lock(state_->mutex);
    if (state_->failure) return std::unexpected(*state_->failure);
    return {};
}

Result<void> Device::stop() { return state_->stop(); }
Result<void> Device::remove() { return state_->remove(); }

DeviceStage Device::stage() const noexcept {
    const std::lock_guard lock(state_->mutex);
    return state_->stage;
}

const DeviceInfo& Device::info() const noexcept { return state_->info; }
const DeviceChoices& Device::choices() const noexcept { return state_->choice.choices; }
Geometry Device::geometry() const noexcept { return state_->geometry; }
std::string Device::block_path() const { return "/dev/ublkb" + std::to_string(state_->info.id); }
std::string Device::char_path() const { return "/dev/ublkc" + std::to_string(state_->info.id); }

std::vector<QueueCounters> Device::counters() const {
    std::vector<QueueCounters> all(state_->info.queues);
    for (std::size_t part = 0; part < state_->counters.size(); ++part) {
        state_->counters[part].add_to(all[state_->queue_of(static_cast<std::uint16_t>(part))]);
    }
    return all;
}

}  // namespace ashlar
