// Reactor: what queues and control need of an io_uring, and what a simulation can stand in for.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <ashlar/result.h>

#include "kernel/abi.h"
#include "reactor/operation.h"

namespace ashlar {

// A file known to one reactor; cheaper to name than a descriptor.
using FileSlot = std::uint32_t;

struct ReactorOptions {
    unsigned entries = 256;         // submissions a round may collect; rounded up to a power of two
    unsigned files = 16;            // slots for registered files
    bool control_commands = false;  // control_command() will be used instead of io_command()
    // Kernels before 6.13 keep a file that was registered until every command is done that was in
    // flight when it was taken out, so a ring that outlives its files must name them otherwise.
    bool register_files = true;
};

// Thread: all of it belongs to the thread that created it, except post().
class Reactor {
public:
    Reactor() = default;
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;
    virtual ~Reactor() = default;

    // Errors: ENFILE when all slots are taken.
    [[nodiscard]] virtual Result<FileSlot> register_file(int fd) = 0;
    virtual void unregister_file(FileSlot file) noexcept = 0;

    // Queues a command on a character device; submitted with the round. Never fails: when the
    // submission queue is full it is pushed to the kernel first. An error comes by complete().
    virtual void io_command(FileSlot file, std::uint32_t opcode, const kernel::abi::IoCmd& command,
                            Operation& operation) noexcept = 0;
    virtual void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                                 Operation& operation) noexcept = 0;

    // One round, one system call: pushes what was queued, waits for at least one completion (or
    // until the time-out), and calls complete() of all that came. Returns 0, or the errno that
    // makes the reactor useless; ETIME when the time-out passed and nothing came.
    [[nodiscard]] virtual int run_once(
        std::optional<std::chrono::milliseconds> timeout) noexcept = 0;

    // Any thread: runs `call` on the reactor's thread soon, ending a wait.
    virtual void post(std::move_only_function<void()> call) = 0;

    // Rounds made so far.
    [[nodiscard]] std::uint64_t rounds() const noexcept { return rounds_; }

protected:
    std::uint64_t rounds_ = 0;
};

// The real one. Errors: ENOSYS or EPERM (io_uring missing or switched off), ENOMEM, EMFILE.
[[nodiscard]] Result<std::unique_ptr<Reactor>> open_uring_reactor(const ReactorOptions& options);

}  // namespace ashlar
