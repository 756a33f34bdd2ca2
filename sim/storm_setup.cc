// What a seed's plan makes: the storage, the ways of requests, the device.
#include <cerrno>
#include <span>

#include <ashlar/backends.h>

#include "sim/storm_calls.h"
#include "sim/storm_world.h"

namespace ashlar::sim {

namespace {

// A backend without coroutines, over one simulated file.
class Synchronous {
public:
    Synchronous(SimKernel& kernel, int fd, const Plan& plan)
        : kernel_(&kernel), fd_(fd), plan_(&plan) {}
    [[nodiscard]] std::uint64_t size() const { return plan_->blocks * plan_->block; }
    [[nodiscard]] Geometry geometry() const {
        return {.size = size(), .logical_block_size = plan_->block};
    }
    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        if (fails(EIO)) return std::errc::io_error;
        return answer(kernel_->files.read(fd_, into, offset));
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        if (fails(ENOSPC)) return std::errc::no_space_on_device;
        return answer(kernel_->files.write(fd_, from, offset, false));
    }
    IoResult flush() {
        if (fails(EIO)) return std::errc::io_error;
        return answer(kernel_->files.sync(fd_));
    }
    IoResult write_zeroes(Range range, bool) {
        if (fails(EIO)) return std::errc::io_error;
        return answer(kernel_->files.zero(fd_, range.offset, range.length));
    }

private:
    [[nodiscard]] bool fails(int error) {
        if (!kernel_->random.chance(plan_->files.errors)) return false;
        kernel_->errors.give(error);
        return true;
    }
    static IoResult answer(std::int32_t result) { return IoResult::from_kernel(result); }

    SimKernel* kernel_;
    int fd_;
    const Plan* plan_;
};

// The same, and the file's memory is its own: with a cache that loses what is not flushed.
template <bool with_fua>
class Held : public Synchronous {
public:
    Held(SimKernel& kernel, int fd, const Plan& plan)
        : Synchronous(kernel, fd, plan), kernel_(&kernel), fd_(fd) {}
    [[nodiscard]] std::byte* locate(Range range) {
        return kernel_->files.locate(fd_, range.offset, range.length);
    }
    IoResult write_fua(std::uint64_t offset, std::span<const std::byte> from)
        requires with_fua
    {
        const IoResult written = write(offset, from);
        return written.ok() ? flush() : written;
    }

private:
    SimKernel* kernel_;
    int fd_;
};

}  // namespace

void World::make_files() {
    constexpr std::uint64_t chunk = 4096;
    const std::uint64_t size = plan_.blocks * plan_.block;
    const std::uint64_t each = (size / plan_.members + chunk - 1) / chunk * chunk;
    for (unsigned i = 0; i < plan_.members; ++i) {
        files_.push_back(kernel_.files.add(each, plan_.block));
    }
    plan_.blocks = each * plan_.members / plan_.block;
}

std::shared_ptr<Backend> World::open_file_disk(std::size_t member) {
    const std::uint64_t size = plan_.blocks * plan_.block / plan_.members;
    return open_disk({.geometry = {.size = size, .logical_block_size = plan_.block},
                      .capabilities = plan_.capabilities,
                      .access = plan_.access,
                      .copied_write_max = plan_.copied_write_max,
                      .fd = files_[member],
                      .bound_micros = plan_.bound_micros,
                      .watcher = this});
}

std::shared_ptr<Backend> World::open_storage() {
    Backends members;
    for (std::size_t i = 0; i < files_.size(); ++i) members.push_back(open_file_disk(i));
    const std::uint64_t seed = kernel_.random.next();
    Result<std::shared_ptr<Backend>> made = members.front();
    switch (plan_.storage) {
        case Storage::memory:
            made = open_memory({.geometry = {.size = plan_.blocks * plan_.block,
                                             .logical_block_size = plan_.block}});
            break;
        case Storage::disk: break;
        case Storage::synchronous:
            made = make_backend(Synchronous(kernel_, files_.front(), plan_));
            break;
        case Storage::held:
            made = plan_.capabilities.fua
                       ? make_backend(Held<true>(kernel_, files_.front(), plan_))
                       : make_backend(Held<false>(kernel_, files_.front(), plan_));
            break;
        case Storage::stripe: made = open_stripe(members, {.chunk = 4096}); break;
        case Storage::linear: made = open_linear(members); break;
        case Storage::delayed: {
            const Latency latency{.shape = Latency::Shape::uniform,
                                  .mean = std::chrono::microseconds(60),
                                  .spread = std::chrono::microseconds(60)};
            made = open_delay(members.front(),
                              {.read = latency, .write = latency, .flush = latency, .seed = seed});
            break;
        }
        case Storage::cached:
            made = open_fault(members.front(), {.volatile_cache = true, .seed = seed});
            break;
        case Storage::faulty: {
            const Fault error{.kind = Fault::Kind::error, .code = ENOSPC, .rate = 0.03};
            const Fault torn{.kind = Fault::Kind::torn, .rate = 0.05};
            made = open_fault(members.front(), {.faults = {error, torn}, .seed = seed});
            break;
        }
    }
    if (!made) {
        kernel_.journal.finding("storage: " + made.error().message());
        return members.front();
    }
    return open_witness(std::move(*made), *this);
}

// What the plan wants, as far as kernel and backend can.
Choice World::choose_ways() {
    while (true) {
        const auto choice = choose({.data_path = plan_.data_path,
                                    .commands = plan_.commands,
                                    .threads_per_queue = plan_.threads_per_queue,
                                    .access = backend_->data_access(),
                                    .copies_writes = backend_->copied_write_max() != 0,
                                    .recovery = plan_.recovery,
                                    .offered = plan_.offered});
        if (choice) {
            plan_.data_path = choice->choices.data_path;
            plan_.commands = choice->choices.commands;
            plan_.threads =
                std::min(plan_.threads, unsigned{plan_.queues} * plan_.threads_per_queue);
            return *choice;
        }
        if (choice.error().operation == "choose how to recover") {
            plan_.recovery = Recovery::none;
        } else if (plan_.threads_per_queue > 1) {
            plan_.threads_per_queue = 1;
        } else if (plan_.commands == CommandStyle::batch) {
            plan_.commands = CommandStyle::per_io;
        } else {
            plan_.data_path = DataPath::automatic;
        }
    }
}

void World::make_driver(const Choice& choice) {
    DriverOptions options = plan_.driver;
    options.features = choice.features;
    options.offered = plan_.offered;
    options.queues = plan_.queues;
    options.depth = plan_.depth;
    options.io_max = plan_.io_max;
    options.block = plan_.block;
    driver_ = std::make_unique<SimDriver>(kernel_, options);
    driver_->on_delivery = [this](const BlockRequest& request) { delivered(request); };
    driver_->on_answer = [this](const BlockRequest& request, std::int32_t result, int injected) {
        answered(request, result, injected);
    };
    server_options_ = {
        .choices = choice.choices,
        .capabilities = capabilities_,
        .queues = plan_.queues,
        .depth = plan_.depth,
        .threads_per_queue = plan_.threads_per_queue,
        .io_max = plan_.io_max,
        .ioctl_commands = (plan_.offered & kernel::abi::f_cmd_ioctl_encode) != 0,
        .user_copies = (choice.features & kernel::abi::f_user_copy) != 0,
        .threads = plan_.threads,
        .entries = plan_.entries,
        .faults = plan_.files,
    };
}

World::World(std::uint64_t seed) : kernel_(seed), plan_(draw_plan(kernel_.random)) {
    simulated = &kernel_;
    make_files();
    backend_ = open_storage();
    const Geometry geometry = backend_->geometry();
    plan_.block = geometry.logical_block_size;
    plan_.blocks = geometry.size / plan_.block;
    capabilities_ = backend_->capabilities();
    make_driver(choose_ways());
    reference_ = std::make_unique<Reference>(plan_.blocks, plan_.block, capabilities_.flush);
    client_ = std::make_unique<Client>(kernel_, *driver_, *reference_, plan_, capabilities_);
    seen_.assign(plan_.queues, std::vector<Seen>(plan_.depth));
}

}  // namespace ashlar::sim
