// Device: how one comes to be, and its handle.
#include <ashlar/device.h>

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "base/random.h"
#include "core/device_options.h"
#include "core/device_state.h"
#include "kernel/abi.h"

namespace ashlar {
namespace {

constexpr unsigned kThreadsMost = 1024;
constexpr unsigned kBuffersOfOneRing = 16'384;
constexpr auto kNodeInterval = std::chrono::milliseconds(2);

// Each queue has a session for each of its threads.
Result<std::uint16_t> queues_for(const Backend& backend, const DeviceOptions& options) {
    const unsigned most = backend.sessions_max();
    if (most == 0) return options.queues;
    const unsigned queues = most / options.threads_per_queue;
    if (queues == 0) {
        return std::unexpected(
            Error{.operation = "check settings",
                  .code = EINVAL,
                  .detail = "threads per queue is " + std::to_string(options.threads_per_queue) +
                            "; this backend takes " + std::to_string(most) + " at most"});
    }
    return static_cast<std::uint16_t>(std::min<unsigned>(queues, options.queues));
}

}  // namespace

// ---- Creation ----------------------------------------------------------------------------------

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
                          .copies_writes = backend->copied_write_max() != 0,
                          .recovery = options.recovery,
                          .zoned = geometry.zones.size != 0,
                          .metadata = geometry.metadata.size != 0,
                          .shares_memory = !options.shared_memory.empty(),
                          .scans_partitions = options.partition_scan,
                          .unprivileged = options.unprivileged,
                          .offered = *features});
    if (!choice) return std::unexpected(choice.error());
    auto queues = queues_for(*backend, options);
    if (!queues) return std::unexpected(queues.error());
    auto shared = SharedMemory::open(options.shared_memory);
    if (!shared) return std::unexpected(shared.error());
    auto state = std::make_shared<State>(std::move(*control), std::move(backend), options);
    state->options.queues = *queues;
    state->shared = std::move(*shared);
    state->choice = std::move(*choice);
    state->geometry = geometry;
    state->capabilities = capabilities;
    // Drivers before 6.16 keep a stopped device's tags as fetched. No flag tells, but QUIESCE came
    // with the same release.
    state->restartable = (*features & kernel::abi::f_quiesce) != 0;
    const std::uint64_t identity = options.identity != 0 ? options.identity : random_nonzero();
    if (auto added = state->add(options.id, identity); !added)
        return std::unexpected(added.error());
    state->choice.choices.threads = state->thread_count();
    return Device(std::move(state));
}

// Adds the device to the kernel with its parameters; on failure nothing is left.
Result<void> Device::State::add(std::optional<DeviceId> id, std::uint64_t identity) {
    auto added = control.add({.id = id,
                              .queues = options.queues,
                              .depth = options.depth,
                              .io_max = options.io_max,
                              .features = choice.features,
                              .identity = identity});
    if (!added) return std::unexpected(added.error());
    info = *added;
    Result<void> set = await_ownership();
    if (!set) return set;  // nor is it ours to remove
    const std::uint64_t missing = choice.features & ~info.features;
    if ((missing & kernel::abi::f_unprivileged_dev) != 0) {
        set = std::unexpected(error("add device", EINVAL,
                                    "a device that is added with CAP_SYS_ADMIN is privileged",
                                    "add it as the user that it is for"));
    } else if (missing != 0) {
        set = std::unexpected(error("add device", EOPNOTSUPP,
                                    "the kernel did not grant " + feature_names(missing).front(),
                                    "choose another data path, kind of commands or recovery"));
    } else {
        set = control.set_params(info.id, geometry, capabilities, info.io_max);
        if (set && shared) set = SharedMemory::register_with(control, info.id, shared.get());
    }
    // The first error is the one to tell; a removal that fails too leaves a dead device.
    if (!set) static_cast<void>(control.remove(info.id));
    return set;
}

// The node of an unprivileged device is root's at first; a rule of udev's has it given to the user.
// Until then the driver takes no command for it from us.
Result<void> Device::State::await_ownership() {
    if ((info.features & kernel::abi::f_unprivileged_dev) == 0) return {};
    const std::string path = "/dev/ublkc" + std::to_string(info.id);
    const auto deadline = std::chrono::steady_clock::now() + options.timeout;
    while (eaccess(path.c_str(), R_OK | W_OK) != 0) {
        if (errno != EACCES && errno != EPERM && errno != ENOENT) {
            return std::unexpected(error("open " + path, errno));
        }
        if (std::chrono::steady_clock::now() >= deadline) {
            return std::unexpected(error(
                "wait for " + path, ETIMEDOUT, "it has not become this user's",
                "udev's rule for it (60-ashlar.rules) is missing or does not work; the device is "
                "there, and only root can remove it ('ashlar del " +
                    std::to_string(info.id) + "')"));
        }
        std::this_thread::sleep_for(kNodeInterval);
    }
    return {};
}

// In place of a device that the driver cannot start again one that is the same to everybody.
Result<void> Device::State::renew() {
    const DeviceId id = info.id;
    Result<void> step = control.remove(id);
    if (step) step = add(id, info.identity);
    if (!step) {
        // Removal may end later, when the last holder of the block device closes it.
        const std::lock_guard lock(mutex);
        stage = DeviceStage::removed;
    }
    return step;
}

Result<Device> Device::recover(std::shared_ptr<Backend> backend, DeviceId id,
                               const DeviceOptions& options) {
    ASHLAR_ASSERT(backend != nullptr);
    if (auto valid = check_device_options(options, backend->geometry()); !valid)
        return std::unexpected(valid.error());
    auto control = Control::open({.timeout = options.timeout});
    if (!control) return std::unexpected(control.error());
    auto state = std::make_shared<State>(std::move(*control), std::move(backend), options);
    const auto features = state->control.features();
    if (!features) return std::unexpected(features.error());
    // Drivers before 7.3 let only the process that stopped a device start it again. No flag tells,
    // but IO_DESC_SIZE came with the same release.
    state->restartable = (*features & kernel::abi::f_io_desc_size) != 0;
    if (auto taken = state->take_over(id); !taken) return std::unexpected(taken.error());
    state->choice.choices.threads = state->thread_count();
    return Device(std::move(state));
}

Result<void> Device::State::take_over(DeviceId id) {
    auto known = control.info(id);
    if (!known) return std::unexpected(known.error());
    info = *known;
    options.id = id;
    options.queues = info.queues;
    options.depth = info.depth;
    options.io_max = info.io_max;
    options.recovery = recovery_of(info.features);
    const auto params = control.params(id);
    if (!params) return std::unexpected(params.error());
    if (auto fits = check_backend(*params); !fits) return fits;
    const auto most = queues_for(*backend, options);
    if (!most) return std::unexpected(most.error());
    if (*most < info.queues) {
        return std::unexpected(error("recover device", EINVAL,
                                     "the backend takes " + std::to_string(*most) +
                                         " queues, the device has " + std::to_string(info.queues),
                                     "give it the backend it was made with"));
    }
    geometry = params->geometry;
    capabilities = params->capabilities;
    // The kernel knows that users have it, not who does it: the backend, or the engine for it.
    capabilities.fua = backend->capabilities().fua;
    auto made_for =
        choice_of_device(info.features, backend->data_access(), options.threads_per_queue);
    if (!made_for) return std::unexpected(made_for.error());
    choice = std::move(*made_for);
    if (auto free = await_no_server(); !free) return free;
    // Last: a server that lives has its memory registered, and keeps it.
    if (auto sharing = share_memory(); !sharing) return sharing;
    stage = info.state == DeviceState::dead ? DeviceStage::stopped : DeviceStage::quiesced;
    return {};
}

Result<void> Device::State::await_no_server() {
    if (options.recovery == Recovery::none) {
        if (info.state == DeviceState::dead) return {};
        return std::unexpected(error("recover device", EBUSY, "it is live",
                                     "one that was added without recovery cannot change its "
                                     "server"));
    }
    if (info.state == DeviceState::live) {
        if (auto ended = await_state(DeviceState::quiesced, kServerEnds); !ended) {
            return std::unexpected(
                error("recover device", EBUSY,
                      "its server, process " + std::to_string(info.pid) + ", has not ended",
                      "stop that one first, or quiesce the device"));
        }
    }
    return {};
}

Result<void> Device::State::share_memory() {
    const bool can = (info.features & kernel::abi::f_shmem_zc) != 0;
    if (!can && !options.shared_memory.empty()) {
        return std::unexpected(error("recover device", EINVAL,
                                     "it was made without memory shared with its users",
                                     "leave the shared memory out"));
    }
    auto opened = SharedMemory::open(options.shared_memory);
    if (!opened) return std::unexpected(opened.error());
    shared = std::move(*opened);
    return can ? SharedMemory::register_with(control, info.id, shared.get()) : Result<void>();
}

// What users of the block device count on must still be there.
Result<void> Device::State::check_backend(const DeviceParams& params) const {
    const Geometry now = backend->geometry();
    const Geometry& was = params.geometry;
    const auto refuse = [&](const std::string& what, std::uint64_t had, std::uint64_t has) {
        return std::unexpected(error("recover device", EINVAL,
                                     "the backend's " + what + " is " + std::to_string(has) +
                                         ", the device's " + std::to_string(had),
                                     "give it the backend it was made with"));
    };
    if (now.size != was.size) return refuse("size", was.size, now.size);
    if (now.logical_block_size > was.logical_block_size) {
        return refuse("logical block size", was.logical_block_size, now.logical_block_size);
    }
    if (now.zones.size != was.zones.size) {
        return refuse("zone size", was.zones.size, now.zones.size);
    }
    if (now.metadata != was.metadata) {
        return refuse("metadata size", was.metadata.size, now.metadata.size);
    }
    const Capabilities can = backend->capabilities();
    const Capabilities& needed = params.capabilities;
    if ((needed.discard && !can.discard) || (needed.write_zeroes && !can.write_zeroes) ||
        (can.flush != needed.flush) || (can.read_only && !needed.read_only)) {
        return std::unexpected(error("recover device", EINVAL,
                                     "the backend cannot do what the device promises",
                                     "give it the backend it was made with"));
    }
    return {};
}

// Of the device's own threads.
unsigned Device::State::thread_count() const noexcept {
    const std::uint32_t parts = DeviceQueues::parts_of(serving());
    const std::uint32_t most = std::min(parts, kThreadsMost);
    if (options.thread_count != 0) return std::min(options.thread_count, most);
    const unsigned wanted = backend->best_threads();
    // One ring can register the pages of so many requests.
    const std::uint32_t requests = std::uint32_t{info.queues} * info.depth;
    const std::uint32_t least = (requests + kBuffersOfOneRing - 1) / kBuffersOfOneRing;
    return wanted != 0 ? std::min(std::max(wanted, least), most) : most;
}

// ---- The handle --------------------------------------------------------------------------------

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
Result<void> Device::wait() { return state_->wait(); }
Result<void> Device::stop() { return state_->stop(false); }
Result<void> Device::stop_if_unused() { return state_->stop(true); }
Result<void> Device::resize(std::uint64_t size) { return state_->resize(size); }
Result<void> Device::set_cpus(std::vector<std::vector<int>> cpus) {
    return state_->set_cpus(std::move(cpus));
}
Result<void> Device::quiesce() { return state_->quiesce(); }
Result<void> Device::remove() { return state_->remove(); }
void Device::detach() { state_->detach(); }

DeviceStage Device::stage() const noexcept {
    const std::lock_guard lock(state_->mutex);
    return state_->stage;
}

const DeviceInfo& Device::info() const noexcept { return state_->info; }
const DeviceChoices& Device::choices() const noexcept { return state_->choice.choices; }
Geometry Device::geometry() const noexcept { return state_->geometry; }
std::string Device::block_path() const { return "/dev/ublkb" + std::to_string(state_->info.id); }
std::string Device::char_path() const { return "/dev/ublkc" + std::to_string(state_->info.id); }

Metrics Device::metrics() const {
    Metrics taken{.began = {},
                  .from = {},
                  .taken = std::chrono::steady_clock::now(),
                  .timed = state_->takes_time(),
                  .queues = std::vector<QueueMetrics>(state_->info.queues),
                  .backend = state_->backend->counters()};
    if (const auto used = state_->current_queues()) {
        taken.began = taken.from = used->began();
        used->add_metrics(taken.queues);
    }
    return taken;
}

}  // namespace ashlar
