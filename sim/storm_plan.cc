#include "sim/storm_plan.h"

#include <array>

#include "core/choices.h"

namespace ashlar::sim {

namespace {

constexpr std::array kVersions = {
    kernel::KernelVersion{6, 0},  kernel::KernelVersion{6, 1},  kernel::KernelVersion{6, 4},
    kernel::KernelVersion{6, 5},  kernel::KernelVersion{6, 12}, kernel::KernelVersion{6, 13},
    kernel::KernelVersion{6, 15}, kernel::KernelVersion{6, 16}, kernel::KernelVersion{6, 17},
    kernel::KernelVersion{6, 18}, kernel::KernelVersion{7, 0},  kernel::KernelVersion{7, 1},
    kernel::KernelVersion{7, 3},  kernel::KernelVersion{7, 3}};

void draw_storage(Random& random, Plan& plan) {
    plan.storage = random.pick({Storage::memory, Storage::disk, Storage::disk, Storage::synchronous,
                                Storage::held, Storage::stripe, Storage::linear, Storage::delayed,
                                Storage::cached, Storage::faulty});
    plan.block = random.chance(700) ? 512 : 4096;
    plan.blocks = random.pick<std::uint64_t>({64, 128, 256});
    plan.capabilities.flush = random.chance(750);
    plan.capabilities.fua = plan.capabilities.flush && random.chance(400);
    plan.capabilities.discard = random.chance(600);
    plan.capabilities.write_zeroes = random.chance(600);
    plan.access = random.chance(700) ? DataAccess::routes : DataAccess::sees;
    const bool joined = plan.storage == Storage::stripe || plan.storage == Storage::linear;
    plan.members = joined ? static_cast<unsigned>(random.between(2, 4)) : 1;
    if (random.chance(100)) plan.bound_micros = static_cast<std::uint32_t>(random.between(50, 900));
}

void draw_faults(Random& random, Plan& plan) {
    plan.files.latency = random.pick<Instant>({5'000, 100'000, 1'000'000});
    plan.driver.delivery = random.pick<Instant>({1'000, 20'000, 200'000});
    if (random.chance(350)) plan.files.errors = 20;
    if (random.chance(200)) plan.files.lost_answers = 20;
    if (random.chance(400)) plan.files.shorts = 100;
    if (random.chance(400)) plan.files.again = 50;
    if (random.chance(100)) plan.files.stuck = 4;
    if (random.chance(400)) plan.files.pushes = 300;
    if (random.chance(400)) plan.driver.retries = 30;
    if (random.chance(100)) plan.driver.refusals = 3;
    if (random.chance(500)) plan.driver.no_registrations = 150;
    if (random.chance(500)) plan.driver.parts = 200;
    if (random.chance(400)) plan.driver.copies = 50;
}

void draw_acts(Random& random, Plan& plan) {
    const std::uint64_t count = random.pick<std::uint64_t>({0, 1, 1, 2, 3, 4});
    for (std::uint64_t i = 0; i < count; ++i) {
        plan.acts.push_back(random.pick({Act::kill, Act::cut_power, Act::cut_power, Act::break_down,
                                         Act::quiesce, Act::quiesce, Act::stop}));
    }
    plan.interrupted = random.chance(200);
}

}  // namespace

const char* name(Act act) noexcept {
    switch (act) {
        case Act::kill: return "kill";
        case Act::cut_power: return "cut_power";
        case Act::break_down: return "break_down";
        case Act::quiesce: return "quiesce";
        case Act::stop: return "stop";
    }
    return "";
}

const char* name(Storage storage) noexcept {
    switch (storage) {
        case Storage::memory: return "memory";
        case Storage::disk: return "disk";
        case Storage::synchronous: return "synchronous";
        case Storage::held: return "held";
        case Storage::stripe: return "stripe";
        case Storage::linear: return "linear";
        case Storage::delayed: return "delayed";
        case Storage::cached: return "cached";
        case Storage::faulty: return "faulty";
    }
    return "";
}

Plan draw_plan(Random& random) {
    Plan plan;
    plan.version = kVersions[random.below(kVersions.size())];
    plan.offered = kernel::infer_features(plan.version);
    draw_storage(random, plan);
    draw_faults(random, plan);
    plan.recovery =
        random.pick({Recovery::none, Recovery::queue, Recovery::reissue, Recovery::fail});
    plan.data_path =
        random.pick({DataPath::automatic, DataPath::zero_copy, DataPath::zero_copy_manual,
                     DataPath::user_copy, DataPath::get_data, DataPath::copy});
    plan.commands = random.chance(600) ? CommandStyle::per_io : CommandStyle::batch;
    plan.queues = static_cast<std::uint16_t>(random.pick({1, 1, 2, 3, 4}));
    plan.depth = static_cast<std::uint16_t>(random.pick({1, 2, 3, 4, 8, 16, 64}));
    if (random.chance(200))
        plan.threads_per_queue =
            static_cast<std::uint16_t>(random.between(1, plan.depth < 3 ? plan.depth : 3));
    plan.threads = static_cast<unsigned>(
        random.between(1, std::uint64_t{plan.queues} * plan.threads_per_queue));
    plan.entries = random.pick<unsigned>({1, 2, 4, 16, 256});
    plan.io_max = random.pick<std::uint32_t>({4096, 8192, 16384});
    draw_acts(random, plan);
    plan.requests = static_cast<unsigned>(random.between(40, 260));
    plan.at_once = static_cast<unsigned>(random.pick({1, 2, 4, 8, 16, 48}));
    if (random.chance(300)) plan.copied_write_max = random.pick<std::uint32_t>({4096, 8192, 16384});
    return plan;
}

std::string Plan::describe() const {
    std::string text =
        "kernel " + kernel::to_string(version) + ", " + sim::name(storage) + ", data path " +
        std::string(ashlar::name(data_path)) + ", commands " + std::string(ashlar::name(commands)) +
        ", recovery " + std::string(ashlar::name(recovery)) + ", " + std::to_string(queues) +
        " queues of " + std::to_string(depth) + " on " + std::to_string(threads) + " threads";
    if (threads_per_queue > 1) text += ", " + std::to_string(threads_per_queue) + " a queue";
    if (copied_write_max != 0) text += ", copies writes of " + std::to_string(copied_write_max);
    text += capabilities.flush ? ", flush" : "";
    for (const Act act : acts) text += std::string(", ") + sim::name(act);
    if (interrupted) text += ", interrupted";
    return text;
}

}  // namespace ashlar::sim
