// Plan: everything about one seed that is drawn before it runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "kernel/features.h"
#include "sim/sim_driver.h"
#include "sim/sim_reactor.h"

namespace ashlar::sim {

enum class Act : std::uint8_t {
    kill,        // the server's process
    cut_power,   // the same, and what was not flushed may be lost
    break_down,  // one of its threads cannot go on
    quiesce,     // the server leaves, the next one takes over
    stop,        // the device is stopped and started again
};
[[nodiscard]] const char* name(Act act) noexcept;

enum class Storage : std::uint8_t {
    memory,
    disk,
    synchronous,
    held,  // synchronous, in memory that the engine may copy to and from
    stripe,
    linear,
    delayed,
    cached,  // the fault layer's volatile cache
    faulty,  // the fault layer's errors
};
[[nodiscard]] const char* name(Storage storage) noexcept;

struct Plan {
    kernel::KernelVersion version{};
    std::uint64_t offered = 0;
    Storage storage = Storage::memory;
    std::uint32_t block = 512;
    std::uint64_t blocks = 64;
    Capabilities capabilities{};  // of the disks underneath
    DataAccess access = DataAccess::sees;
    std::uint32_t copied_write_max = 0;  // of the disks underneath
    std::uint32_t bound_micros = 0;
    unsigned members = 1;
    Recovery recovery = Recovery::none;
    DataPath data_path = DataPath::automatic;
    CommandStyle commands = CommandStyle::automatic;
    std::uint16_t queues = 1;
    std::uint16_t depth = 1;
    std::uint16_t threads_per_queue = 1;
    unsigned threads = 1;
    unsigned entries = 64;
    std::uint32_t io_max = 4096;
    FileFaults files{};
    DriverOptions driver{};
    unsigned requests = 100;
    unsigned at_once = 4;
    std::vector<Act> acts{};
    bool interrupted = false;  // servers are killed in the middle of acts, too

    [[nodiscard]] std::string describe() const;
};
[[nodiscard]] Plan draw_plan(Random& random);

}  // namespace ashlar::sim
