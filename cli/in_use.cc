#include "cli/in_use.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/fd.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kClaimTimeoutMs = 2000;

struct Part {
    std::string name;    // "ublkb0", "ublkb0p1"
    std::string number;  // "259:3"
};

std::vector<Part> disk_and_partitions(const std::string& disk) {
    std::vector<Part> parts;
    const fs::path root = fs::path("/sys/block") / disk;
    const auto add = [&](const fs::path& directory) {
        std::ifstream file(directory / "dev");
        std::string number;
        if (file >> number) parts.push_back({directory.filename(), number});
    };
    add(root);
    std::error_code gone;
    for (const auto& entry : fs::directory_iterator(root, gone)) {
        if (entry.path().filename().string().starts_with(disk + "p")) add(entry.path());
    }
    return parts;
}

// See proc_pid_mountinfo(5): the third field is the device, the fifth the mount point.
std::optional<std::string> mount_point(const Part& part) {
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        std::istringstream fields(line);
        std::string id, parent, device, root, point;
        if (fields >> id >> parent >> device >> root >> point && device == part.number) {
            return point;
        }
    }
    return std::nullopt;
}

bool is_swap(const Part& part) {
    std::ifstream file("/proc/swaps");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("/dev/" + part.name + " ") ||
            line.starts_with("/dev/" + part.name + "\t")) {
            return true;
        }
    }
    return false;
}

// A loop device keeps its file open inside the kernel.
std::optional<std::string> loop_device(const Part& part) {
    std::error_code none;
    for (const auto& entry : fs::directory_iterator("/sys/block", none)) {
        std::ifstream file(entry.path() / "loop/backing_file");
        std::string backing;
        if (std::getline(file, backing) && backing == "/dev/" + part.name) {
            return entry.path().filename().string();
        }
    }
    return std::nullopt;
}

// Asks the kernel for an exclusive claim, which it refuses while somebody mounted or mapped it. In
// a process of its own: the open can wait for a server that does not answer.
bool is_claimed(const Part& part) {
    const pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) {
        const std::string path = "/dev/" + part.name;
        const int fd = open(path.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);
        _exit(fd < 0 && errno == EBUSY ? 1 : 0);
    }
    const Fd process(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
    pollfd ended{process.get(), POLLIN, 0};
    if (poll(&ended, 1, kClaimTimeoutMs) <= 0) {
        kill(child, SIGKILL);
        return false;
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

std::optional<std::string> holder(const std::string& disk, const Part& part) {
    fs::path directory = fs::path("/sys/block") / disk;
    if (part.name != disk) directory /= part.name;
    std::error_code gone;
    for (const auto& entry : fs::directory_iterator(directory / "holders", gone)) {
        return entry.path().filename().string();
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> who_uses(DeviceId id) {
    const std::string disk = fmt::format("ublkb{}", id);
    for (const Part& part : disk_and_partitions(disk)) {
        if (auto point = mount_point(part)) return "mounted on " + *point;
        if (is_swap(part)) return "used as swap";
        if (auto name = holder(disk, part)) return "held by " + *name;
        if (auto name = loop_device(part)) return "the disk of " + *name;
        if (is_claimed(part)) return "in use";
    }
    return std::nullopt;
}

namespace {

// Whether it is the path of this disk or of a partition of it, "(deleted)" or not.
bool is_of_disk(std::string_view path, std::string_view disk) {
    if (!path.starts_with(disk)) return false;
    path.remove_prefix(disk.size());
    return path.empty() || path.front() == 'p' || path.front() == ' ';
}

// By the name that it was mounted by, which stays when the disk is gone.
std::optional<std::string> mount_point_by_name(const std::string& disk) {
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        const auto dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::istringstream after(line.substr(dash + 3));
        std::string type, source;
        if (!(after >> type >> source) || !is_of_disk(source, disk)) continue;
        std::istringstream fields(line);
        std::string id, parent, device, root, point;
        fields >> id >> parent >> device >> root >> point;
        return point;
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> who_has_open(DeviceId id) {
    const std::string disk = fmt::format("/dev/ublkb{}", id);
    if (const auto point = mount_point_by_name(disk)) return "the mount on " + *point;
    std::error_code none;
    for (const auto& process : fs::directory_iterator("/proc", none)) {
        const std::string pid = process.path().filename();
        if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
        for (const auto& open_file : fs::directory_iterator(process.path() / "fd", none)) {
            const std::string target = fs::read_symlink(open_file.path(), none);
            if (!is_of_disk(target, disk)) continue;
            std::ifstream comm(process.path() / "comm");
            std::string name;
            std::getline(comm, name);
            return fmt::format("process {} ({})", pid, name);
        }
    }
    return std::nullopt;
}

}  // namespace ashlar::cli
