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
    // needed: whole paths that it opens by name again. The file systems that they lie on stay
    // mounted here too, and so in use until the server ends.
    void after_backend(const std::vector<std::string>& needed);

    [[nodiscard]] const std::vector<Protection>& all() const noexcept { return all_; }

private:
    std::vector<Protection> all_;
};

// {"memory-lock": {"active": true, "detail": "..."}, ...}
[[nodiscard]] nlohmann::json to_json(const std::vector<Protection>& protections);

// Where opening a path leads: every symbolic link on its way and what is at its end, by names in
// which no link is left.
[[nodiscard]] std::vector<std::string> places_on_the_way(const std::string& path);

// Mount points of file systems that are others' than the system's and not of memory.
struct MountsOfOthers {
    // A server has no use for these, the outermost first: with it go those inside, and no path
    // leads through a file system whose server does not answer.
    std::vector<std::string> unneeded{};
    // On the way to a place that is needed. Never one that lies on a ublk disk, which might be the
    // server's own.
    std::vector<std::string> kept{};
};
// Of a /proc/self/mountinfo. needed: places_on_the_way().
[[nodiscard]] MountsOfOthers mounts_of_others(std::string_view mountinfo,
                                              const std::vector<std::string>& needed);

}  // namespace ashlar::cli
