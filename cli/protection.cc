#include "cli/protection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <system_error>

#include "base/fd.h"

namespace ashlar::cli {
namespace {

// Not -1000, which nothing kills: a disk in memory that outgrows the machine, or a cgroup in which
// only its server is left, must end in a dead device, not in a dead machine or a server that tries
// for ever. At -900 others go first unless the server itself has nine tenths of what there is.
constexpr int kOomScore = -900;
// Fewer than what a stripe of some hundred files and its clients take.
constexpr rlim_t kFewDescriptors = 1024;

Protection had(std::string name, std::string detail) {
    return {.name = std::move(name), .active = true, .detail = std::move(detail)};
}

// "what was not done (why); what to do".
Protection missed(std::string name, std::string_view what, int code, std::string_view hint) {
    return {.name = std::move(name),
            .active = false,
            .detail = fmt::format("{} ({}: {}); {}", what, strerrorname_np(code),
                                  strerrordesc_np(code), hint)};
}

// Locking counts the address space of a disk, so a finite limit would refuse the disk later.
std::optional<int> lift_memory_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) return {};
    limit = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return errno;
    return {};
}

Protection lock_memory() {
    constexpr auto name = "memory-lock";
    constexpr auto what = "the server's memory may be swapped out, even to its own disk";
    constexpr auto hint =
        "run it as root, or with unlimited locked memory (ulimit -l unlimited, "
        "LimitMEMLOCK=infinity)";
    if (const auto code = lift_memory_limit()) return missed(name, what, *code, hint);
    if (mlockall(MCL_CURRENT) != 0) return missed(name, what, errno, hint);
    return had(name, "the program is locked in memory");
}

// Memory that is freed for this process's sake is not freed by writing to disks: the disk to be
// written might be its own.
Protection flush_without_io() {
    constexpr auto name = "io-flusher";
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) {
        return had(name, "its allocations never wait for I/O");
    }
    return missed(
        name, "when memory is short, the server may wait for writes to its own disk", errno,
        errno == EINVAL ? "use kernel 5.6 or newer" : "run it as root, or with CAP_SYS_RESOURCE");
}

std::optional<int> oom_score() {
    std::ifstream file("/proc/self/oom_score_adj");
    int score = 0;
    if (file >> score) return score;
    return std::nullopt;
}

Protection avoid_oom_killer() {
    constexpr auto name = "oom-score";
    const auto inherited = oom_score();
    // Somebody has decided so.
    if (inherited && *inherited <= kOomScore) {
        return had(name, fmt::format("{} as inherited", *inherited));
    }
    const std::string text = std::to_string(kOomScore);
    const Fd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    if (file.valid() &&
        write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
        return had(name, fmt::format("{}: others are killed first", kOomScore));
    }
    return missed(name, "when memory runs out, the server is killed like any other process", errno,
                  "run it as root, with CAP_SYS_RESOURCE, or with OOMScoreAdjust=-900");
}

Protection raise_descriptor_limit() {
    constexpr auto name = "descriptors";
    constexpr auto hint = "raise the hard limit (ulimit -Hn, LimitNOFILE=)";
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return missed(name, "limit unknown", errno, hint);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return missed(name, "limit as it was", errno, hint);
    if (limit.rlim_max < kFewDescriptors) {
        return {.name = name,
                .active = false,
                .detail = fmt::format("at most {} open files; {}", limit.rlim_max, hint)};
    }
    return had(name, fmt::format("at most {} open files", limit.rlim_max));
}

// ---- The mount namespace -----------------------------------------------------------------------

// A space in a path is \040, and so on.
std::string without_escapes(std::string_view text) {
    std::string plain;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const std::string digits(text.substr(std::min(at + 1, text.size()), 3));
        const bool escaped = text[at] == '\\' && digits.size() == 3 &&
                             digits.find_first_not_of("01234567") == std::string::npos;
        plain += escaped ? static_cast<char>(std::strtol(digits.c_str(), nullptr, 8)) : text[at];
        if (escaped) at += 3;
    }
    return plain;
}

// Where a server finds its libraries, nodes, state and socket, and what it knows of the kernel.
bool is_place_of_the_system(std::string_view point) {
    constexpr std::array<std::string_view, 9> places = {"/",    "/dev", "/etc", "/proc", "/run",
                                                        "/sys", "/tmp", "/usr", "/var"};
    return std::ranges::find(places, point) != places.end();
}

// What has no disk or server of its own behind it: nobody waits for its end, and a server may want
// to find a socket or a file of memory there again.
bool is_of_memory(std::string_view type) {
    constexpr std::array<std::string_view, 5> types = {"tmpfs", "devtmpfs", "ramfs", "hugetlbfs",
                                                       "devpts"};
    return std::ranges::find(types, type) != types.end();
}

// The kernel's own (/proc/sys/fs/binfmt_misc), and a container's names of hosts.
bool is_inside_the_system(std::string_view point) {
    return point.starts_with("/proc/") || point.starts_with("/sys/") || point.starts_with("/etc/");
}

// By whole names, and not of the root.
bool is_inside(std::string_view path, std::string_view point) {
    return path.starts_with(point) && (path.size() == point.size() || path[point.size()] == '/');
}

struct Mount {
    std::string point;
    std::string source;
};

std::vector<Mount> read_mounts_of_others(std::string_view mountinfo) {
    std::vector<Mount> mounts;
    std::istringstream lines{std::string(mountinfo)};
    for (std::string line; std::getline(lines, line);) {
        // "36 35 98:0 /root /point options tags... - type source options"
        std::istringstream fields(line);
        std::string id, parent, device, root, point, word, type, source;
        if (!(fields >> id >> parent >> device >> root >> point)) continue;
        while (fields >> word && word != "-") {
        }
        fields >> type >> source;
        if (is_place_of_the_system(point) || is_of_memory(type) || is_inside_the_system(point)) {
            continue;
        }
        mounts.push_back({.point = without_escapes(point), .source = without_escapes(source)});
    }
    return mounts;
}

std::string read_mountinfo() {
    std::ifstream file("/proc/self/mountinfo");
    return {std::istreambuf_iterator<char>(file), {}};
}

Protection leave_mount_namespace(const std::vector<std::string>& needed) {
    constexpr auto name = "mount-namespace";
    constexpr auto what = "the server stays in its caller's mount namespace";
    constexpr auto hint =
        "run it as root (CAP_SYS_ADMIN); in a container, unmount this disk before the container "
        "ends, or the server never does";
    std::vector<std::string> places;
    for (const std::string& path : needed) {
        std::ranges::copy(places_on_the_way(path), std::back_inserter(places));
    }
    if (unshare(CLONE_NEWNS) != 0) return missed(name, what, errno, hint);
    // Nothing that is mounted from now on comes here, the disk's own file systems above all.
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        return missed(name, "what others mount shows up in the server's namespace", errno, hint);
    }
    // The caller's directory would be in use for ever, and no longer to be seen as such.
    if (chdir("/") != 0) return missed(name, "the server stays in its directory", errno, hint);
    const MountsOfOthers mounts = mounts_of_others(read_mountinfo(), places);
    std::size_t left = 0;
    for (const std::string& point : mounts.unneeded) {
        if (umount2(point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
        // Gone together with what it was mounted in: no longer a mount point, or not even there.
        if (errno != EINVAL && errno != ENOENT) ++left;
    }
    if (left != 0) {
        return {.name = name,
                .active = false,
                .detail = fmt::format("{} file systems of others stay mounted in the server's "
                                      "namespace and are in use until it ends; end it before "
                                      "their disks go",
                                      left)};
    }
    return had(name, fmt::format("its own, without file systems of others{}{}",
                                 mounts.kept.empty() ? "" : " but ", fmt::join(mounts.kept, ", ")));
}

}  // namespace

std::vector<std::string> places_on_the_way(const std::string& path) {
    std::vector<std::string> places;
    std::filesystem::path at = "/";
    const std::filesystem::path whole = path;
    std::deque<std::filesystem::path> rest(whole.begin(), whole.end());
    unsigned links = 40;  // the kernel follows no more
    while (!rest.empty()) {
        const std::filesystem::path name = rest.front();
        rest.pop_front();
        if (name.empty() || name == "." || name == "/") continue;
        if (name == "..") {
            at = at.parent_path();
            continue;
        }
        at /= name;
        std::error_code none;
        const auto target = std::filesystem::read_symlink(at, none);
        if (none || links == 0) continue;
        --links;
        places.push_back(at.string());
        at = target.is_absolute() ? "/" : at.parent_path();
        rest.insert(rest.begin(), target.begin(), target.end());
    }
    places.push_back(at.string());
    return places;
}

MountsOfOthers mounts_of_others(std::string_view mountinfo,
                                const std::vector<std::string>& needed) {
    const auto mounts = read_mounts_of_others(mountinfo);
    // Also what is mounted inside of one, or over one in the same place: it goes with it.
    const auto is_on_ublk = [&](const Mount& mount) {
        return std::ranges::any_of(mounts, [&](const Mount& other) {
            return other.source.starts_with("/dev/ublkb") && is_inside(mount.point, other.point);
        });
    };
    MountsOfOthers found;
    for (const Mount& mount : mounts) {
        const bool is_needed = std::ranges::any_of(
            needed, [&](const std::string& place) { return is_inside(place, mount.point); });
        const bool keep = is_needed && !is_on_ublk(mount);
        auto& points = keep ? found.kept : found.unneeded;
        if (keep && std::ranges::find(points, mount.point) != points.end()) continue;
        points.push_back(mount.point);
    }
    return found;
}

void Protections::before_backend() {
    all_ = {lock_memory(), flush_without_io(), avoid_oom_killer(), raise_descriptor_limit()};
}

void Protections::after_backend(const std::vector<std::string>& needed) {
    for (Protection& protection : all_) {
        if (protection.name != "memory-lock" || !protection.active) continue;
        // On fault: to populate it would cost all the buffers' memory, and the time to zero it.
        if (mlockall(MCL_FUTURE | MCL_ONFAULT) == 0) {
            protection.detail = "the program and its I/O buffers are locked in memory";
        } else {
            protection = missed(protection.name, "its I/O buffers may be swapped out", errno,
                                "use kernel 4.4 or newer");
        }
    }
    all_.push_back(leave_mount_namespace(needed));
}

nlohmann::json to_json(const std::vector<Protection>& protections) {
    auto json = nlohmann::json::object();
    for (const Protection& each : protections) {
        json[each.name] = {{"active", each.active}, {"detail", each.detail}};
    }
    return json;
}

}  // namespace ashlar::cli
