// The staged lifecycle: created -> serving -> stopping -> stopped (-> serving ...) -> removed, and
// serving -> quiescing -> quiesced (-> serving ...).
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "core/child_control.h"
#include "core/device_state.h"
#include "core/io_scheduler.h"
#include "core/near_cpus.h"
#include "kernel/abi.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr unsigned kEntriesMost = 32'768;
constexpr auto kRetryInterval = milliseconds(2);
constexpr auto kDescriptorCloses = milliseconds(10'000);

}  // namespace

// ---- Starting ----------------------------------------------------------------------------------

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

Serving Device::State::serving() const {
    return {.info = info,
            .choices = choice.choices,
            .capabilities = capabilities,
            .threads_per_queue = options.threads_per_queue,
            .backend = backend,
            .size = geometry.size,
            .zone_size = geometry.zones.size,
            .metadata = geometry.metadata,
            .shared = shared,
            .timed = takes_time(),
            .observer = options.observer,
            .on_end = options.on_end};
}

Result<void> Device::State::make_threads() {
    std::shared_ptr<QueueThreadPool> used;
    if (options.threads != nullptr) {
        used = std::static_pointer_cast<QueueThreadPool>(options.threads);
    } else {
        // At most so many queues, or parts of them, are one thread's.
        const unsigned count = thread_count();
        const unsigned parts_of_one = (DeviceQueues::parts_of(serving()) + count - 1) / count;
        const unsigned tags_of_part =
            (info.depth + options.threads_per_queue - 1U) / options.threads_per_queue;
        const unsigned tags_of_one = parts_of_one * tags_of_part;
        auto own = QueueThreadPool::create(
            {.count = count,
             // Each request has a commit and an operation of its backend under way in a round.
             .entries = std::min(tags_of_one * 2, kEntriesMost),
             .files = parts_of_one,
             .buffers = tags_of_one,
             .nice = options.nice,
             .polling = options.polling,
             .busy_poll = options.busy_poll},
            QueueThreadPool::Lifetime::one_device, open_uring_reactor,
            "ublk" + std::to_string(info.id) + "-q");
        if (!own) return std::unexpected(own.error());
        used = std::move(*own);
    }
    auto fresh = std::make_shared<DeviceQueues>(serving());
    const std::lock_guard lock(mutex);
    pool = std::move(used);
    queues = std::move(fresh);
    return {};
}

// Where the kernel sends a queue's requests, for threads that have nothing else to do. On a CPU of
// its own a thread would take turns with whoever asks, and see few requests at a time: it is then
// free to run on any that is near.
Result<std::vector<std::vector<int>>> Device::State::cpus_of_parts() {
    const std::uint32_t parts = DeviceQueues::parts_of(serving());
    if (auto valid = check_cpus(options.cpus); !valid) return std::unexpected(valid.error());
    std::vector<std::vector<int>> cpus;
    if (options.cpus.size() == 1) cpus.assign(parts, options.cpus.front());
    for (std::uint32_t part = 0; options.cpus.size() > 1 && part < parts; ++part) {
        cpus.push_back(options.cpus[part / options.threads_per_queue]);
    }
    if (!cpus.empty() || options.threads != nullptr || thread_count() != parts) return cpus;
    for (std::uint32_t part = 0; part < parts; ++part) {
        const auto queue = static_cast<std::uint16_t>(part / options.threads_per_queue);
        auto affinity = control.queue_affinity(info.id, queue);
        if (!affinity) return std::unexpected(affinity.error());
        if (affinity->size() == 1) *affinity = cpus_near(affinity->front());
        cpus.push_back(std::move(*affinity));
    }
    return cpus;
}

// Opens the queues; afterwards START_DEV or END_USER_RECOVERY may come.
Result<void> Device::State::serve() {
    auto device = open_char_device();
    if (!device) return std::unexpected(device.error());
    if (auto made = make_threads(); !made) return made;
    auto cpus = cpus_of_parts();
    if (!cpus) return std::unexpected(cpus.error());
    return current_queues()->open(*pool, *device, *cpus, options.timeout);
}

Result<void> Device::State::begin_serving() {
    auto served = serve();
    if (served) served = start_from_child(info.id, getpid(), options.timeout);
    // Of several queues the kernel gives none a scheduler.
    // Kernels before 6.10 keep the writes of a zone in order by it.
    const bool keep_scheduler = options.keep_scheduler || geometry.zones.size != 0;
    if (served && info.queues == 1 && !keep_scheduler) {
        leave_out_io_scheduler(io_scheduler_file(info.id));
    }
    return served;
}

Result<void> Device::State::begin_recovery() {
    if (auto ended = await_state(DeviceState::quiesced, kServerEnds); !ended) return ended;
    // The last server's descriptor of the device closes a moment after that.
    const auto deadline = steady_clock::now() + kDescriptorCloses;
    auto begun = control.start_recovery(info.id);
    while (!begun && begun.error().code == EBUSY && steady_clock::now() < deadline) {
        std::this_thread::sleep_for(kRetryInterval);
        begun = control.start_recovery(info.id);
    }
    if (!begun) return begun;
    auto served = serve();
    if (served) served = control.end_recovery(info.id, getpid());
    return served;
}

Result<void> Device::State::start() {
    DeviceStage before{};
    {
        const std::lock_guard lock(mutex);
        before = stage;
        const bool recoverable = stage == DeviceStage::failed && options.recovery != Recovery::none;
        if (stage != DeviceStage::created && stage != DeviceStage::stopped &&
            stage != DeviceStage::quiesced && !recoverable) {
            return std::unexpected(error("start device", EBUSY,
                                         "it is " + std::string(name(stage)) +
                                             "; only a created, stopped or quiesced device can "
                                             "start"));
        }
        queues.reset();
    }
    if (before == DeviceStage::stopped && !restartable) {
        if (auto renewed = renew(); !renewed) return renewed;
    }
    const bool recovering = before == DeviceStage::quiesced || before == DeviceStage::failed;
    const auto served = recovering ? begin_recovery() : begin_serving();
    if (!served) {
        // What a queue ran into is the cause; that the kernel then refused is the consequence.
        const auto used = current_queues();
        const auto failure = used != nullptr ? used->failure() : std::nullopt;
        give_up(recovering);
        return failure ? std::unexpected(*failure) : served;
    }
    const std::lock_guard lock(mutex);
    stage = DeviceStage::serving;
    return {};
}

// A start that failed: brings home what was fetched, so that the device is as before.
void Device::State::give_up(bool recovering) {
    if (const auto used = current_queues(); used != nullptr) {
        if (!recovering) {
            const auto stopped = stop_from_child(info.id, options.timeout);
            // No child is to be had; nothing is served yet that could hold this one up.
            if (!stopped && stopped.error().code != ETIMEDOUT) {
                static_cast<void>(control.stop(info.id));
            }
        } else if (options.threads != nullptr) {
            // Gives back what was fetched; the device is quiesced already.
            static_cast<void>(control.quiesce(info.id, options.timeout));
        } else {
            used->leave(Leaving::holding);
        }
        if (!used->await_closed(options.timeout)) {
            used->abandon(error("start device", ECANCELED));
            static_cast<void>(used->await_closed(options.timeout));
        }
    }
    std::shared_ptr<QueueThreadPool> ended;
    const std::lock_guard lock(mutex);
    ended.swap(pool);
}

Result<void> Device::State::await_state(DeviceState wanted, milliseconds bound) {
    const auto deadline = steady_clock::now() + bound;
    while (true) {
        auto now = control.info(info.id);
        if (!now) return std::unexpected(now.error());
        if (now->state == wanted ||
            (wanted == DeviceState::quiesced && now->state == DeviceState::fail_io)) {
            return {};
        }
        if (steady_clock::now() >= deadline) {
            return std::unexpected(error("wait until the device is " + std::string(name(wanted)),
                                         ETIMEDOUT, "it is " + std::string(name(now->state))));
        }
        std::this_thread::sleep_for(kRetryInterval);
    }
}

// ---- Ending ------------------------------------------------------------------------------------

// All queues are closed: ends the device's own threads and their rings. Both stop() and wait() get
// here; the second finds nothing to do.
void Device::State::settle() {
    std::shared_ptr<QueueThreadPool> ended;  // joined without the lock, which its threads may want
    bool failed = false;
    {
        const std::lock_guard lock(mutex);
        const bool quiescing = stage == DeviceStage::quiescing;
        if (stage != DeviceStage::serving && stage != DeviceStage::stopping && !quiescing) return;
        stage = quiescing ? DeviceStage::quiesced : DeviceStage::stopped;
        failed = queues->failure().has_value();
        if (failed) stage = DeviceStage::failed;
        ended.swap(pool);
    }
    // Shared ones have ended too; the driver waits for their rings.
    if (failed) ended->end();
}

// An unanswered request keeps the kernel from stopping the device, and this process from ending.
// Closing the rings and the character device fails it and frees all.
Result<void> Device::State::abandon(Error why) {
    const auto used = current_queues();
    used->abandon(why);
    if (used->await_closed(options.timeout)) settle();
    return std::unexpected(std::move(why));
}

Result<void> Device::State::stop(bool if_unused) {
    DeviceStage before{};
    bool open = false;
    {
        const std::lock_guard lock(mutex);
        before = stage;
        // Stopping, quiescing: the time of an earlier one was over.
        open = stage == DeviceStage::serving || stage == DeviceStage::stopping ||
               stage == DeviceStage::quiescing;
        const bool quiesced = stage == DeviceStage::quiesced ||
                              (stage == DeviceStage::failed && options.recovery != Recovery::none);
        if (!open && !quiesced) return {};
        if (open) stage = DeviceStage::stopping;
    }
    auto stopped = if_unused ? stop_if_unused_from_child(info.id, options.timeout)
                             : stop_from_child(info.id, options.timeout);
    const int code = stopped ? 0 : stopped.error().code;
    if (!open) {
        const std::lock_guard lock(mutex);
        if (stopped) stage = DeviceStage::stopped;
        return stopped;
    }
    if (if_unused && (code == EBUSY || code == EOPNOTSUPP)) {
        const std::lock_guard lock(mutex);
        stage = before;
        return stopped;
    }
    const auto used = current_queues();
    // The kernel could not be told, for want of a process or a descriptor.
    if (code != 0 && code != ENODEV && code != ETIMEDOUT) return abandon(stopped.error());
    // The backend has had its time: what its requests wait for is cancelled, so that they end.
    if (code == ETIMEDOUT) used->cancel_requests();
    if (used->await_closed(options.timeout)) {
        settle();
        return {};
    }
    return abandon(error("stop device", ETIMEDOUT,
                         "the backend did not answer every request in time; those failed"));
}

Result<void> Device::State::check_quiesce() const {
    const auto refuse = [&](std::string why, std::string hint) {
        return std::unexpected(
            error("quiesce device", EOPNOTSUPP, std::move(why), std::move(hint)));
    };
    if (options.recovery == Recovery::none || options.recovery == Recovery::fail) {
        return refuse("its recovery is " + std::string(name(options.recovery)) +
                          ", so its users would see errors",
                      "add it with recovery queue or reissue");
    }
    if (options.recovery == Recovery::queue && (info.features & kernel::abi::f_quiesce) == 0) {
        return refuse("with recovery queue this needs kernel 6.16 or newer",
                      "add it with recovery reissue");
    }
    if (options.recovery == Recovery::queue && choice.choices.commands == CommandStyle::batch) {
        // The driver takes no fetch any more, and fails what it has not handed out.
        return refuse("with recovery queue and batch commands requests would be lost",
                      "add it with recovery reissue, or commands per-io");
    }
    if (options.threads != nullptr) {
        return refuse("its threads serve other devices too", "give it threads of its own");
    }
    return {};
}

// The driver sends no more requests: it must be told, if it would fail those it sends too late.
Result<void> Device::State::send_no_more() {
    if (options.recovery == Recovery::reissue) return {};
    auto told = control.quiesce(info.id, options.timeout);
    if (told || told.error().code != EBUSY) return told;
    // Until a request of every queue is answered the driver cannot reach us.
    current_queues()->cancel_requests();
    return control.quiesce(info.id, options.timeout);
}

Result<void> Device::State::quiesce() {
    if (auto possible = check_quiesce(); !possible) return possible;
    {
        const std::lock_guard lock(mutex);
        if (stage == DeviceStage::quiesced) return {};
        if (stage != DeviceStage::serving) {
            return std::unexpected(error(
                "quiesce device", EBUSY,
                "it is " + std::string(name(stage)) + "; only a serving device can be quiesced"));
        }
        stage = DeviceStage::quiescing;
    }
    if (auto told = send_no_more(); !told) return abandon(told.error());
    const auto used = current_queues();
    used->leave(options.recovery == Recovery::reissue ? Leaving::holding : Leaving::serving);
    if (!used->await_closed(options.timeout)) {
        used->cancel_requests();
        if (!used->await_closed(options.timeout)) {
            return abandon(error("quiesce device", ETIMEDOUT,
                                 "the backend did not answer every request in time"));
        }
    }
    settle();
    return await_state(DeviceState::quiesced, options.timeout);
}

Result<void> Device::State::remove() {
    const auto stopped = stop(false);
    const auto used = current_queues();
    {
        const std::lock_guard lock(mutex);
        if (stage == DeviceStage::removed) return {};
    }
    if (used != nullptr && !used->closed()) {
        if (!stopped) return stopped;
        return std::unexpected(
            error("remove device", EBUSY, "its threads are still inside the backend"));
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

Result<void> Device::State::check_cpus(const std::vector<std::vector<int>>& cpus) const {
    const auto refuse = [&](std::string detail) {
        return std::unexpected(error("choose CPUs", EINVAL, std::move(detail)));
    };
    if (cpus.empty()) return {};
    if (options.threads != nullptr) {
        return std::unexpected(
            error("choose CPUs", EOPNOTSUPP, "its threads serve other devices too"));
    }
    if (cpus.size() > 1 && cpus.size() != info.queues) {
        return refuse(std::to_string(cpus.size()) + " lists of CPUs for " +
                      std::to_string(info.queues) + " queues; give one for all, or one for each");
    }
    if (cpus.size() > 1 && thread_count() != DeviceQueues::parts_of(serving())) {
        return refuse("a thread serves several of its queues; give one list for all");
    }
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(getpid(), sizeof(allowed), &allowed) != 0) return {};
    for (const std::vector<int>& list : cpus) {
        if (list.empty()) return refuse("a list of CPUs is empty");
        for (const int cpu : list) {
            if (cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed)) continue;
            return refuse("CPU " + std::to_string(cpu) +
                          " is none that this process may use; see 'taskset -p " +
                          std::to_string(getpid()) + "'");
        }
    }
    return {};
}

Result<void> Device::State::set_cpus(std::vector<std::vector<int>> cpus) {
    if (auto valid = check_cpus(cpus); !valid) return valid;
    if (options.threads != nullptr) {
        return std::unexpected(
            error("choose CPUs", EOPNOTSUPP, "its threads serve other devices too"));
    }
    {
        const std::lock_guard lock(mutex);
        if (stage != DeviceStage::serving) {
            return std::unexpected(
                error("choose CPUs", EBUSY, "it is " + std::string(name(stage)), "start it first"));
        }
    }
    const auto before = std::exchange(options.cpus, std::move(cpus));
    const auto of_parts = cpus_of_parts();
    if (!of_parts) {
        options.cpus = before;
        return std::unexpected(of_parts.error());
    }
    current_queues()->pin_to(*of_parts);
    return {};
}

void Device::State::detach() {
    const std::lock_guard lock(mutex);
    ASHLAR_ASSERT(stage != DeviceStage::serving && stage != DeviceStage::stopping &&
                  stage != DeviceStage::quiescing);
    stage = DeviceStage::removed;
}

Result<void> Device::State::wait() {
    const auto used = current_queues();
    if (used == nullptr) return {};
    used->await_closed();
    settle();
    if (auto failure = used->failure()) return std::unexpected(*failure);
    return {};
}

}  // namespace ashlar
