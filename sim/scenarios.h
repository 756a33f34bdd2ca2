// Scenarios: what happens to a device, told once, and carried out by a lane: the model of the
// driver, or a real one. What the lanes say must be the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ashlar/device.h>

namespace ashlar::sim {

enum class Step : std::uint8_t {
    hold,     // the server keeps requests unanswered from now on
    serve,    // it answers them
    fail,     // it answers them with the errno `value`
    write,    // a request begins
    read,     // the same
    answers,  // says how requests that began ended, or that they wait; each end is said once
    kill,     // the server's process ends
    stop,     // STOP_DEV begins
    stopped,  // says its result, or that it waits
    quiesce,  // QUIESCE_DEV; says its result
    recover,  // another server takes over; says the result
    state,    // says the device's state
};

struct Move {
    Step step = Step::state;
    int value = 0;
};

struct Scenario {
    std::string name;
    Recovery recovery = Recovery::none;
    DataPath data_path = DataPath::copy;
    CommandStyle commands = CommandStyle::per_io;
    std::vector<Move> moves;
};

inline constexpr std::uint16_t kScenarioDepth = 4;

// Those that a kernel with these features (UBLK_F_*) can be put through.
[[nodiscard]] std::vector<Scenario> scenarios(std::uint64_t offered);

// One device from the start of a scenario. A move answers what is to be compared; often nothing.
class Lane {
public:
    Lane() = default;
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    virtual ~Lane() = default;
    virtual std::string carry_out(const Move& move) = 0;
};

// What the lane said, a line a move that said something.
[[nodiscard]] std::vector<std::string> run(const Scenario& scenario, Lane& lane);

}  // namespace ashlar::sim
