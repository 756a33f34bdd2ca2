// The device's life: opened, started, stopped, quiesced, left by its server, recovered.
#include "sim/sim_driver.h"

#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace ashlar::sim {

namespace abi = kernel::abi;

namespace {

constexpr Instant kMillisecond = 1'000'000;
constexpr Instant kRetry = 3 * kMillisecond;

// As the driver has it: every queue's array has room for the largest depth.
std::size_t stride() {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    constexpr std::size_t array = abi::max_queue_depth * sizeof(abi::IoDesc);
    return (array + page - 1) / page * page;
}

}  // namespace

SimDriver::SimDriver(SimKernel& kernel, const DriverOptions& options)
    : kernel_(kernel), options_(options), queues_(options.queues) {
    for (Queue& queue : queues_) {
        queue.ios.resize(options.depth);
        queue.by_tag.resize(options.depth);
    }
}

SimDriver::~SimDriver() { kernel_.devices.erase(fd_); }

bool SimDriver::maps() const noexcept {
    return !has(abi::f_user_copy) && !has(abi::f_support_zero_copy) && !has(abi::f_auto_buf_reg);
}
bool SimDriver::recovers() const noexcept { return has(abi::f_user_recovery); }
bool SimDriver::keeps_requests() const noexcept {
    return recovers() && !has(abi::f_user_recovery_fail_io);
}
bool SimDriver::reissues() const noexcept {
    return recovers() && has(abi::f_user_recovery_reissue);
}

void SimDriver::finding(const char* what, std::uint16_t queue, std::uint16_t tag) {
    kernel_.journal.finding("driver: " + std::string(what) + " (queue " + std::to_string(queue) +
                            ", tag " + std::to_string(tag) + ")");
}

std::int32_t SimDriver::broken(const char* what, std::uint16_t queue, std::uint16_t tag, int code) {
    finding(what, queue, tag);
    return -code;
}

std::string SimDriver::describe() const {
    std::string text = "device is " + std::to_string(static_cast<int>(state_)) +
                       (open_ ? ", open" : "") + (dying_ ? ", going" : "") +
                       (canceling_ ? ", canceling" : "") + "; outstanding " +
                       std::to_string(outstanding_);
    for (const Queue& queue : queues_) {
        for (const Io& io : queue.ios) {
            if (!io.owned && !io.answered) continue;
            text += io.owned ? "; owned by the server: " : "; answered, its buffer in use: ";
            text += io.request == nullptr ? "?" : "request " + std::to_string(io.request->id);
        }
    }
    return text;
}

abi::IoDesc* SimDriver::descriptor(std::uint16_t queue, std::uint16_t tag) noexcept {
    return reinterpret_cast<abi::IoDesc*>(descriptors_.data() + queue * stride()) + tag;
}

// ---- Opening and waiting -----------------------------------------------------------------------

int SimDriver::open(Fd& fd) {
    if (open_) return EBUSY;
    Fd memory(memfd_create("ublkc", MFD_CLOEXEC));
    const std::size_t size = queues_.size() * stride();
    if (!memory.valid() || ftruncate(memory.get(), static_cast<off_t>(size)) != 0) return ENOMEM;
    void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    if (mapped == MAP_FAILED) return ENOMEM;
    descriptors_ = Mapping(mapped, size);
    kernel_.devices.erase(fd_);
    fd_ = memory.get();
    kernel_.devices[fd_] = this;
    fd = std::move(memory);
    open_ = true;
    kernel_.journal.note("opened");
    return 0;
}

void SimDriver::wait_for(std::function<bool()> is_over, std::function<void()> then) {
    waits_.push_back({std::move(is_over), std::move(then)});
    look_again();
}

// Something has changed; whoever waits is asked, but not from within.
void SimDriver::look_again() {
    if (std::exchange(looking_, true)) return;
    kernel_.timeline.after(1, [this] {
        looking_ = false;
        for (auto at = waits_.begin(); at != waits_.end(); ++at) {
            if (!at->is_over()) continue;
            const auto then = std::move(at->then);
            waits_.erase(at);
            look_again();
            return then();
        }
    });
}

// The device's mutex.
void SimDriver::locked(std::function<void()> call) {
    if (locked_) {
        lock_waits_.push_back(std::move(call));
        return;
    }
    locked_ = true;
    call();
}

void SimDriver::unlock() {
    locked_ = false;
    if (lock_waits_.empty()) return;
    auto call = std::move(lock_waits_.front());
    lock_waits_.pop_front();
    locked_ = true;
    call();
}

// ---- Starting ----------------------------------------------------------------------------------

void SimDriver::start_dev(Done done) {
    const unsigned interrupts = interrupts_;
    wait_for([this, interrupts] { return ready() || stopping_ || interrupts != interrupts_; },
             [this, interrupts, done = std::move(done)] {
                 if (interrupts != interrupts_) return done(EINTR);
                 locked([this, done] { became_ready(done, false); });
             });
}

void SimDriver::end_recovery(Done done) {
    const unsigned interrupts = interrupts_;
    wait_for([this, interrupts] { return ready() || stopping_ || interrupts != interrupts_; },
             [this, interrupts, done = std::move(done)] {
                 if (interrupts != interrupts_) return done(EINTR);
                 locked([this, done] { became_ready(done, true); });
             });
}

void SimDriver::interrupt() {
    ++interrupts_;
    look_again();
}

void SimDriver::became_ready(const Done& done, bool recovery) {
    int error = 0;
    if (!ready() && !stopping_) {
        // Its server has died in between: it waits on.
        unlock();
        return recovery ? end_recovery(done) : start_dev(done);
    }
    if (recovery) {
        if (!recovers()) error = EINVAL;
        const bool recoverable =
            state_ == abi::DevState::quiesced || state_ == abi::DevState::fail_io;
        if (error == 0 && !recoverable) error = EBUSY;
    } else {
        if (disk_) error = EEXIST;
        if (error == 0 && stopping_) error = EBUSY;
    }
    if (error == 0) {
        state_ = abi::DevState::live;
        disk_ = true;
        if (recovery) kick_requeued();
    }
    kernel_.journal.note(recovery ? "recovered" : "started", static_cast<unsigned>(error));
    unlock();
    done(error);
}

int SimDriver::start_recovery() {
    if (!recovers()) return EINVAL;
    const bool recoverable = state_ == abi::DevState::quiesced || state_ == abi::DevState::fail_io;
    return open_ || !recoverable ? EBUSY : 0;
}

// ---- Stopping ----------------------------------------------------------------------------------

void SimDriver::stop_dev(Done done) {
    kernel_.journal.note("stop");
    locked([this, done = std::move(done)] {
        stop_unlocked([this, done] {
            const bool server = open_;
            stopping_ |= server;
            unlock();
            if (server) cancel_commands();
            look_again();
            kernel_.journal.note("stopped");
            done(0);
        });
    });
}

// With the mutex.
void SimDriver::stop_unlocked(std::function<void()> then) {
    if (state_ == abi::DevState::dead) return then();
    if (!keeps_requests()) return delete_disk(std::move(then));
    quiesced_ = true;
    wait_for([this] { return state_ != abi::DevState::live || !any_started(); },
             [this, then = std::move(then)] {
                 for (Queue& queue : queues_) queue.force_abort = true;
                 quiesced_ = false;
                 for (auto& request : std::exchange(held_back_, {})) queue_request(request);
                 kick_requeued();
                 delete_disk(then);
             });
}

void SimDriver::delete_disk(std::function<void()> then) {
    dying_ = true;
    wait_for([this] { return outstanding_ == 0; },
             [this, then = std::move(then)] {
                 state_ = abi::DevState::dead;
                 disk_ = false;
                 dying_ = false;
                 then();
             });
}

void SimDriver::set_canceling(bool canceling) {
    canceling_ = canceling;
    for (Queue& queue : queues_) queue.canceling = canceling;
}

void SimDriver::start_cancel() {
    if (!canceling_) set_canceling(true);
}

void SimDriver::cancel_commands() {
    for (std::uint16_t at = 0; at < options_.queues; ++at) {
        Queue& queue = queues_[at];
        if (is_batch()) {
            queue.force_abort = true;
            // The one in use is not taken away; it finds the queue so when it is used again.
            for (std::size_t place = queue.fetches.size(); place-- > (queue.dispatching ? 1 : 0);) {
                end_fetch(queue, place, abi::io_res_abort);
            }
            continue;
        }
        for (std::uint16_t tag = 0; tag < options_.depth; ++tag) cancel_command(at, tag);
    }
}

void SimDriver::cancel_command(std::uint16_t queue, std::uint16_t tag) {
    Io& io = queues_[queue].ios[tag];
    const auto& request = queues_[queue].by_tag[tag];
    if (!io.active || (request != nullptr && request->started) || io.cancelled) return;
    io.cancelled = true;
    Operation* operation = std::exchange(io.operation, nullptr);
    if (operation != nullptr) io.task->post(*operation, abi::io_res_abort, 0);
}

// ---- Quiescing ---------------------------------------------------------------------------------

void SimDriver::quiesce_dev(Instant bound, Done done) {
    if (!has(abi::f_quiesce)) return done(EOPNOTSUPP);
    locked([this, bound, done = std::move(done)] {
        if (!disk_) {
            unlock();
            return done(ENODEV);
        }
        if (state_ != abi::DevState::live) {
            unlock();
            cancel_commands();
            return done(0);
        }
        kernel_.journal.note("quiesce");
        set_canceling(true);
        await_idle(kernel_.timeline.now() + bound, done);
    });
}

void SimDriver::await_idle(Instant deadline, const Done& done) {
    bool idle = true;
    for (const Queue& queue : queues_) {
        std::size_t waiting = 0;
        for (const auto& request : queue.by_tag) {
            waiting += request != nullptr && !request->started ? 1 : 0;
        }
        idle &= waiting < queue.by_tag.size();
    }
    if (idle || is_batch()) {
        unlock();
        cancel_commands();
        return done(0);
    }
    if (kernel_.timeline.now() >= deadline) {
        unlock();
        return done(EBUSY);
    }
    kernel_.timeline.after(kRetry, [this, deadline, done] { await_idle(deadline, done); });
}

// ---- The server is gone ------------------------------------------------------------------------

void SimDriver::ring_closed(Ring& ring) {
    for (std::uint16_t at = 0; at < options_.queues; ++at) {
        Queue& queue = queues_[at];
        for (std::uint16_t tag = 0; tag < options_.depth && !is_batch(); ++tag) {
            if (queue.ios[tag].task != &ring || queue.ios[tag].operation == nullptr) continue;
            start_cancel();
            cancel_command(at, tag);
        }
        for (std::size_t place = queue.fetches.size(); place-- > 0;) {
            if (queue.fetches[place].ring != &ring) continue;
            start_cancel();
            if (place > 0 || !queue.dispatching) end_fetch(queue, place, abi::io_res_abort);
        }
    }
}

bool SimDriver::holds_commands() const noexcept {
    for (const Queue& queue : queues_) {
        if (!queue.fetches.empty()) return true;
        for (const Io& io : queue.ios) {
            if (io.operation != nullptr) return true;
        }
    }
    return false;
}

void SimDriver::release() {
    kernel_.journal.note("released");
    kernel_.timeline.after(soon(), [this] { work_off_release(); });
}

void SimDriver::work_off_release() {
    bool busy = on_their_way_ != 0;
    for (const Queue& queue : queues_) {
        busy |= queue.dispatching;
        for (const Io& io : queue.ios) busy |= io.registered != 0;
    }
    if (busy) {
        kernel_.timeline.after(4 * kMillisecond, [this] { work_off_release(); });
        return;
    }
    if (!disk_) {
        return locked([this] {
            reset();
            unlock();
        });
    }
    set_canceling(true);
    for (Queue& queue : queues_) {
        for (const Io& io : queue.ios) {
            if (io.owned) fail_or_requeue(io.request);
        }
        for (const std::uint16_t tag : std::exchange(queue.arrived, {})) {
            fail_or_requeue(queue.by_tag[tag]);
        }
    }
    kick_requeued();
    locked([this] {
        if (disk_ && !recovers()) {
            for (Queue& queue : queues_) queue.force_abort = true;
            return stop_unlocked([this] {
                reset();
                unlock();
            });
        }
        if (disk_) {
            state_ = keeps_requests() ? abi::DevState::quiesced : abi::DevState::fail_io;
            for (Queue& queue : queues_) queue.fail_io |= !keeps_requests();
        }
        reset();
        unlock();
    });
}

void SimDriver::fail_or_requeue(const std::shared_ptr<BlockRequest>& request) {
    if (reissues()) return requeue(request);
    complete(request, EIO);
}

void SimDriver::reset() {
    for (Queue& queue : queues_) {
        queue.ready = 0;
        queue.fetches.clear();
        for (Io& io : queue.ios) {
            const bool cancelled = io.cancelled;
            io = Io{};
            io.cancelled = cancelled;
        }
    }
    canceling_ = false;
    queues_ready_ = 0;
    stopping_ = false;
    open_ = false;
    kernel_.journal.note("let go", static_cast<unsigned>(state_));
    look_again();
}

}  // namespace ashlar::sim
