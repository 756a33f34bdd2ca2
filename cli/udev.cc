#include "cli/udev.h"

#include <unistd.h>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;

// See udev(7).
constexpr std::array kRuleDirectories = {"/etc/udev/rules.d", "/run/udev/rules.d",
                                         "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d",
                                         "/lib/udev/rules.d"};

bool names_char_devices(const fs::path& path) {
    std::ifstream file(path);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    return text.find("ublkc") != std::string::npos;
}

}  // namespace

std::optional<std::string> find_udev_rule() {
    std::error_code none;
    if (!fs::exists("/run/udev/control", none)) return std::nullopt;
    for (const char* directory : kRuleDirectories) {
        for (const auto& entry : fs::directory_iterator(directory, none)) {
            if (entry.path().extension() != ".rules") continue;
            if (names_char_devices(entry.path())) return entry.path().string();
        }
    }
    return std::nullopt;
}

Result<void> check_udev_rule() {
    if (geteuid() == 0) {
        return std::unexpected(Error{.operation = "add an unprivileged device",
                                     .code = EINVAL,
                                     .detail = "root's devices are privileged",
                                     .hint = "leave --unprivileged, or add it as its user"});
    }
    if (find_udev_rule()) return {};
    return std::unexpected(
        Error{.operation = "add an unprivileged device",
              .code = ENOENT,
              .detail = "no rule of udev's would give you its nodes",
              .hint = "install Ashlar's package, or packaging/udev/60-ashlar.rules to "
                      "/etc/udev/rules.d; 'ashlar doctor' tells more"});
}

}  // namespace ashlar::cli
