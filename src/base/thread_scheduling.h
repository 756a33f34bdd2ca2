// When a thread gets its CPU. All of it is about the calling thread.
#pragma once

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace ashlar {

// -20 (first) to 19 (last). A hint: without the right to it, the thread keeps what it has.
inline void set_thread_nice(int nice) noexcept {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), nice);
}

// How a thread and those that wake it take turns on one CPU.
enum class Turns {
    prompt,    // it may interrupt them: SCHED_OTHER
    gathered,  // it waits until they sleep or have had their share, so that one turn is for many
               // wake-ups: SCHED_BATCH
};
// Changes to it from the other. False when there is no such choice: the thread has another policy,
// from outside, or may not change it.
inline bool set_thread_turns(Turns turns) noexcept {
    const bool gathered = turns == Turns::gathered;
    if (sched_getscheduler(0) != (gathered ? SCHED_OTHER : SCHED_BATCH)) return false;
    const sched_param none{};
    return sched_setscheduler(0, gathered ? SCHED_BATCH : SCHED_OTHER, &none) == 0;
}

}  // namespace ashlar
