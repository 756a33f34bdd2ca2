#include "base/thread_scheduling.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernel/features.h"

namespace ashlar {

void set_thread_nice(int nice) noexcept {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), nice);
}

bool set_thread_turns(Turns turns) noexcept {
    if (kernel::running_kernel_version() < kernel::since::deadline_scheduler) return false;
    const bool gathered = turns == Turns::gathered;
    if (sched_getscheduler(0) != (gathered ? SCHED_OTHER : SCHED_BATCH)) return false;
    const sched_param none{};
    return sched_setscheduler(0, gathered ? SCHED_BATCH : SCHED_OTHER, &none) == 0;
}

}  // namespace ashlar
