// Reactor: what queues, sessions and control need of an io_uring, and what a simulation can stand
// in for.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <ashlar/device.h>
#include <ashlar/io.h>
#include <ashlar/result.h>

#include "kernel/abi.h"

namespace ashlar {

// A file known to one reactor; cheaper to name than a descriptor.
using FileSlot = std::uint32_t;

// A command about one tag.
struct IoCommand {
    FileSlot file = 0;
    std::uint32_t opcode = 0;
    std::uint64_t registration = 0;  // of a fetch or commit with automatic buffer registration
    kernel::abi::IoCmd command{};
};

struct ReactorOptions {
    unsigned entries = 256;         // submissions a round may collect; rounded up to a power of two
    unsigned files = 16;            // slots for registered files
    unsigned buffers = 0;           // slots for registered buffers, at most 16384
    bool control_commands = false;  // control_command() will be used instead of io_command()
    // Kernels before 6.13 keep a file that was registered until every command is done that was in
    // flight when it was taken out, so a ring that outlives its files must name them otherwise.
    bool register_files = true;
    std::optional<SubmissionPolling> polling{};
    std::chrono::microseconds busy_poll{0};  // DeviceOptions::busy_poll
};

// The flags that come with a completion (the kernel's IORING_CQE_F_*).
namespace completion {
inline constexpr std::uint32_t has_buffer = 1U << 0;    // one of a group was used: buffer_id()
inline constexpr std::uint32_t more = 1U << 1;          // the operation will complete again
inline constexpr std::uint32_t notification = 1U << 3;  // of send_zero_copy: the buffer is free
[[nodiscard]] constexpr std::uint16_t buffer_id(std::uint32_t flags) noexcept {
    return static_cast<std::uint16_t>(flags >> 16);
}
}  // namespace completion

// Thread: all of it belongs to the thread that created it, except post() and wake().
class Reactor {
public:
    Reactor() = default;
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;
    virtual ~Reactor() = default;

    // Errors: ENFILE when all slots are taken.
    [[nodiscard]] virtual Result<FileSlot> register_file(int fd) = 0;
    virtual void unregister_file(FileSlot file) noexcept = 0;

    // `count` slots in a row for buffers that the driver registers; answers the first one's index.
    // Errors: ENOSPC when there are not so many, EOPNOTSUPP before 5.19.
    [[nodiscard]] virtual Result<std::uint16_t> reserve_buffers(unsigned count) = 0;
    virtual void release_buffers(std::uint16_t first, unsigned count) noexcept = 0;

    // A group of `count` (a power of two, at most 32768) equal buffers in `memory`, from which the
    // kernel takes one for each completion of batch_fetch. memory outlives the group.
    [[nodiscard]] virtual Result<std::uint16_t> open_buffer_group(std::span<std::byte> memory,
                                                                  unsigned count) = 0;
    virtual void recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept = 0;
    virtual void close_buffer_group(std::uint16_t group) noexcept = 0;

    // What follows is submitted with the round. It never fails: when the submission queue is full
    // it is pushed to the kernel first. An error comes by complete().

    virtual void io_command(const IoCommand& command, Operation& operation) noexcept = 0;
    // The same, but its completion tells nobody, unless it fails: then nobody either.
    virtual void silent_io_command(const IoCommand& command) noexcept = 0;
    // elements: command.nr_elem of them, valid until it completes.
    virtual void batch_command(FileSlot file, std::uint32_t opcode,
                               const kernel::abi::BatchIo& command, const std::byte* elements,
                               Operation& operation) noexcept = 0;
    // Completes again and again, each time with tags in a buffer of the group, as long as its flags
    // say `more`.
    virtual void batch_fetch(FileSlot file, std::uint32_t opcode,
                             const kernel::abi::BatchIo& command, std::uint16_t group,
                             Operation& operation) noexcept = 0;
    virtual void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                                 Operation& operation) noexcept = 0;
    // submission stays where it is until the operation completes; its followers are submitted next,
    // and nothing in between. at_once completes with the round. send_zero_copy completes twice if
    // the first one's flags say `more`; a bound that passes gives ECANCELED.
    virtual void submit(const Submission& submission, Operation& operation) noexcept = 0;
    // Asks for the end of a submitted operation; it still completes, most often with ECANCELED.
    virtual void cancel(Operation& operation) noexcept = 0;

    // hook is told before the next system call; asking twice is asking once.
    void before_round(RoundHook& hook) noexcept {
        if (hook.hooked_) return;
        hook.hooked_ = true;
        hook.next_hook_ = hooks_;
        hooks_ = &hook;
    }
    // The hook goes away.
    void forget(RoundHook& hook) noexcept {
        for (RoundHook** at = &hooks_; *at != nullptr; at = &(*at)->next_hook_) {
            if (*at != &hook) continue;
            *at = hook.next_hook_;
            return;
        }
    }

    // One round, one system call (two where it looks for work, busy_poll): pushes what was queued,
    // waits for at least one completion (or until the time-out), and calls complete() of all that
    // came. Returns 0, or the errno that makes the reactor useless; ETIME when the time-out passed
    // and nothing came.
    [[nodiscard]] virtual int run_once(
        std::optional<std::chrono::milliseconds> timeout) noexcept = 0;

    // Any thread: `woken` is told on the reactor's thread soon, ending a wait. Those that come
    // while one is on its way cost no system call.
    virtual void wake(Woken& woken) noexcept = 0;
    // Any thread: runs `call` on the reactor's thread soon, ending a wait.
    virtual void post(std::move_only_function<void()> call) = 0;

    // The thread is about to end. Afterwards only wake(), post(), close(), await_end() and the
    // destructor are allowed, on any thread.
    virtual void thread_ends() noexcept {}
    // The ring ends: nothing completes any more. Afterwards only await_end(), wake(), post() and
    // the destructor are allowed.
    virtual void close() noexcept = 0;
    // After close(): waits until the kernel has let go of all that was submitted, some
    // milliseconds. Before that it may still write to memory that operations or buffer groups
    // name, whether or not the thread has ended. False when the time is over.
    [[nodiscard]] virtual bool await_end(std::chrono::milliseconds) noexcept { return true; }

    // Rounds made so far.
    [[nodiscard]] std::uint64_t rounds() const noexcept { return rounds_; }
    // What they brought since this was last asked. One completion may stand for several things.
    [[nodiscard]] unsigned take_brought() noexcept { return std::exchange(brought_, 0); }
    void add_brought(std::size_t count) noexcept { brought_ += static_cast<unsigned>(count); }

protected:
    void run_hooks() noexcept {
        while (hooks_ != nullptr) {
            RoundHook* hook = hooks_;
            hooks_ = hook->next_hook_;
            hook->hooked_ = false;
            hook->before_round();
        }
    }
    std::uint64_t rounds_ = 0;
    unsigned brought_ = 0;

private:
    RoundHook* hooks_ = nullptr;
};

// The real one. Errors: ENOSYS or EPERM (io_uring missing or switched off), ENOMEM, EMFILE.
[[nodiscard]] Result<std::unique_ptr<Reactor>> open_uring_reactor(const ReactorOptions& options);

}  // namespace ashlar
