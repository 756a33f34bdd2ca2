// A program that serves a disk by NBD, started with a socket that listens already: systemd's socket
// activation, which nbdkit, qemu-nbd and qemu-storage-daemon know.
#pragma once

#include <sys/types.h>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <ashlar/result.h>

#include "base/fd.h"
#include "cli/log.h"

namespace ashlar::cli {

// What became of a program, for other processes that were forked after its start.
struct ProgramEnd {
    std::atomic<bool> ended = false;
    std::atomic<int> status = 0;         // waitpid(2)'s
    std::array<char, 512> first_line{};  // of what it said; ends with a zero

    // A sentence; empty: it runs. Waits a moment for the news.
    [[nodiscard]] std::optional<std::string> why() const;
};

// It ends with the thread that started it, or before.
class Program {
public:
    // words: the program, looked up in PATH, and its arguments. Its working directory is ours.
    // Errors: those of making a socket, fork(2) and execve(2).
    [[nodiscard]] static Result<std::unique_ptr<Program>> start(std::vector<std::string> words);
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    // Asks it to end and waits until it has.
    ~Program();

    // From now on what it says goes to the log. Not before a fork that goes on with our data: this
    // starts a thread.
    void follow(const Log& log);

    [[nodiscard]] const std::string& name() const { return name_; }
    // Where it listens.
    [[nodiscard]] const std::string& socket() const { return socket_; }
    // What follow() finds out.
    [[nodiscard]] std::shared_ptr<const ProgramEnd> end() const { return end_; }

private:
    Program() = default;
    [[nodiscard]] Result<void> execute(std::vector<std::string>& words, const Fd& listener);
    void hear(const Log& log);

    std::string name_;
    std::string socket_;
    pid_t process_ = -1;
    Fd alive_;  // pidfd
    Fd said_;   // a pipe
    std::atomic<bool> asked_to_end_ = false;
    std::shared_ptr<ProgramEnd> end_;
    std::thread follower_;
};

// Removes the sockets of programs whose process was killed before it could.
void remove_stale_sockets();

}  // namespace ashlar::cli
