#include "cli/in_use.h"

#include <fmt/format.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;

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
    }
    return std::nullopt;
}

}  // namespace ashlar::cli
