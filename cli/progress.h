// One line on a terminal that says how far a long operation is; nothing in a pipe or a file.
#pragma once

#include <unistd.h>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

namespace ashlar::cli {

// Thread: the main one; one at a time. The line comes when the operation has lasted a while, and is
// gone when this object is.
class Progress {
public:
    using Clock = std::chrono::steady_clock;
    // what: "removing devices". total: of the steps, if that is known.
    Progress(std::string what, std::optional<std::size_t> total, int terminal = STDERR_FILENO);
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    // So many steps are done. now: the time.
    void at(std::size_t done, Clock::time_point now = Clock::now());
    // Removes the line of whatever is under way, for something else to be printed.
    static void make_room();

private:
    void clear();
    const std::string what_;
    const std::optional<std::size_t> total_;
    const int terminal_;  // -1: there is none
    Clock::time_point next_;
    bool shown_ = false;
};

}  // namespace ashlar::cli
