// When a thread gets its CPU. All of it is about the calling thread.
#pragma once

namespace ashlar {

// -20 (first) to 19 (last). A hint: without the right to it, the thread keeps what it has.
void set_thread_nice(int nice) noexcept;

// How a thread and those that wake it take turns on one CPU.
enum class Turns {
    prompt,    // it may interrupt them: SCHED_OTHER
    gathered,  // it waits until they sleep or have had their share, so that one turn is for many
               // wake-ups: SCHED_BATCH
};
// Changes to it from the other. False when there is no such choice: on kernels before 6.6, whose
// scheduler decides otherwise, and when somebody gave the thread another policy.
bool set_thread_turns(Turns turns) noexcept;

}  // namespace ashlar
