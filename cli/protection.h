// What a server does, where allowed, so that it goes on serving when the machine is short of
// something, and holds nothing of others. What could not be had is kept in words.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::cli {

struct Protection {
    std::string name;     // "memory-lock"
    bool active = false;  // in full
    std::string detail;   // what was done; or what was not, why, and what to do
};

// Thread: the server's first, and before any other exists: they inherit what it has.
class Protections {
public:
    // Before the backend opens. Locks the program's own memory, but not what is mapped later (the
    // backend may map a disk of any size); marks the process as one that memory is freed through;
    // makes the OOM killer prefer others; takes all descriptors that it may have.
    void before_backend();
    // After the backend has opened and before the device exists. Locks what is mapped from now
    // on (I/O buffers, rings, stacks) as it is touched, and leaves the mount namespace of the
    // caller with a copy in which only what a server needs is mounted.
    //  - The last process of a namespace unmounts what is in it. A server that is the last one,
    //    with a file system mounted on its own disk, would wait for itself, unkillable.
    //  - A copy of a mount keeps its file system busy after the caller has unmounted it.
    // Files that the backend has open stay in the caller's namespace: their file system is in use.
    void after_backend();

    [[nodiscard]] const std::vector<Protection>& all() const noexcept { return all_; }

private:
    std::vector<Protection> all_;
};

// {"memory-lock": {"active": true, "detail": "..."}, ...}
[[nodiscard]] nlohmann::json to_json(const std::vector<Protection>& protections);

// The mount points of a /proc/self/mountinfo that a server has no use for, the outermost first:
// with it go those inside, and no path leads through a file system whose server does not answer.
[[nodiscard]] std::vector<std::string> unneeded_mounts(std::string_view mountinfo);

}  // namespace ashlar::cli
