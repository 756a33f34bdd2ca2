// The lane of the model: the real engine on the simulated driver. And the backend of both lanes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <ashlar/backend.h>

#include "sim/scenarios.h"

namespace ashlar::sim {

// What the server does with requests.
inline constexpr int kServe = 0;  // any other number above: an errno
inline constexpr int kHold = -1;
// mode outlives the backend. What is written goes nowhere.
[[nodiscard]] std::shared_ptr<Backend> open_scenario_backend(const std::atomic<int>& mode);

[[nodiscard]] std::unique_ptr<Lane> open_model(const Scenario& scenario, std::uint64_t offered);

// "EIO", or "0"; the number if it has no name here.
[[nodiscard]] std::string errno_name(int error);

}  // namespace ashlar::sim
