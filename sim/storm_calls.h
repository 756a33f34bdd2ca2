// The system calls of user copy, which the engine makes on the character device: the linker sends
// them here (see CMakeLists.txt), and those on a simulated device go to its model.
#pragma once

#include "sim/sim_kernel.h"

namespace ashlar::sim {

// Whose devices are simulated on this thread; null for none.
inline thread_local SimKernel* simulated = nullptr;

}  // namespace ashlar::sim
