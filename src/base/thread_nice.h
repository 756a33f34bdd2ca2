// The priority of a thread.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

namespace ashlar {

// The calling thread's, -20 (first) to 19 (last). A hint: without the right to it, the thread keeps
// what it has.
inline void set_thread_nice(int nice) noexcept {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), nice);
}

}  // namespace ashlar
