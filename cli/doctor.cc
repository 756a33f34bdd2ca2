// ashlar doctor: whether ublk works here and, if not, what to type.
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/command.h"
#include "cli/json_text.h"
#include "cli/server_state.h"
#include "cli/udev.h"
#include "kernel/features.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;

enum class Verdict { good, note, bad };

std::string_view name(Verdict verdict) {
    switch (verdict) {
        case Verdict::good: return "ok";
        case Verdict::note: return "note";
        case Verdict::bad: return "bad";
    }
    return "?";
}

struct Finding {
    Verdict verdict = Verdict::good;
    std::string what;
    std::string advice{};
};

std::string release() {
    utsname names{};
    return uname(&names) == 0 ? names.release : "unknown";
}

std::optional<std::string> first_word(const std::string& path) {
    std::ifstream file(path);
    std::string word;
    if (file >> word) return word;
    return std::nullopt;
}

Finding check_kernel() {
    const auto version = kernel::parse_kernel_version(release());
    if (!version)
        return {Verdict::note, fmt::format("kernel {}: version not understood", release())};
    if (*version < kernel::since::driver) {
        return {Verdict::bad, fmt::format("kernel {} has no ublk driver", release()),
                "boot kernel 6.0 or newer"};
    }
    return {Verdict::good, fmt::format("kernel {}", release())};
}

Finding check_user() {
    if (geteuid() == 0) return {Verdict::good, "running as root"};
    return {Verdict::note, "not running as root: only devices of your own, with --unprivileged"};
}

bool module_file_exists() {
    std::error_code none;
    const fs::path directory = fs::path("/lib/modules") / release() / "kernel/drivers/block";
    for (const auto& entry : fs::directory_iterator(directory, none)) {
        if (entry.path().filename().string().starts_with("ublk_drv.ko")) return true;
    }
    return false;
}

Finding check_driver() {
    struct stat node{};
    if (stat("/dev/ublk-control", &node) == 0) {
        return {Verdict::good, "the driver is loaded, /dev/ublk-control exists"};
    }
    if (fs::exists("/sys/class/misc/ublk-control")) {
        return {Verdict::bad, "the driver is loaded, but /dev/ublk-control is missing",
                "mount devtmpfs on /dev, or pass the device into this container"};
    }
    if (module_file_exists()) {
        return {Verdict::bad, "the driver is not loaded", "type 'modprobe ublk_drv'"};
    }
    return {Verdict::bad, fmt::format("kernel {} comes without the ublk_drv module", release()),
            "install the package with the kernel's extra modules, or a kernel with "
            "CONFIG_BLK_DEV_UBLK"};
}

Finding check_uring() {
    const auto disabled = first_word("/proc/sys/kernel/io_uring_disabled");
    if (disabled == "2" || (disabled == "1" && geteuid() != 0)) {
        return {Verdict::bad, "io_uring is switched off",
                "type 'sysctl kernel.io_uring_disabled=0'"};
    }
    return {Verdict::good, "io_uring is allowed"};
}

Finding check_features(Control& control) {
    auto mask = control.features();
    if (!mask) return {Verdict::bad, mask.error().message()};
    return {Verdict::good,
            fmt::format("the driver offers {} of {} features ({:#x})", feature_names(*mask).size(),
                        known_features().size(), *mask)};
}

// Whether udev's rules let users who are not root have devices. Of root, who needs none, it is only
// told.
Finding check_users() {
    const Verdict missing = geteuid() == 0 ? Verdict::note : Verdict::bad;
    const auto rule = find_udev_rule();
    if (!rule) {
        return {missing, "users who are not root can have no devices: udev has no rule for them",
                "install Ashlar's package, or packaging/udev/60-ashlar.rules to /etc/udev/rules.d"};
    }
    const std::string found = fmt::format("udev has rules for users' devices ({})", *rule);
    struct stat node{};
    if (stat("/dev/ublk-control", &node) != 0) return {Verdict::note, found};
    if (geteuid() == 0) {
        if ((node.st_mode & S_IWOTH) != 0) return {Verdict::good, found + "; every user may"};
        if (node.st_gid != 0 && (node.st_mode & S_IWGRP) != 0) {
            return {Verdict::good, fmt::format("{}; members of group {} may", found, node.st_gid)};
        }
        return {Verdict::note, found + ", but only root may open /dev/ublk-control",
                "to let users have devices: 'groupadd --system ublk', 'udevadm control --reload', "
                "'udevadm trigger /dev/ublk-control', 'usermod -aG ublk USER'"};
    }
    if (eaccess("/dev/ublk-control", R_OK | W_OK) != 0) {
        return {missing, found + ", but you may not open /dev/ublk-control",
                "have root type 'usermod -aG ublk USER', then log in again"};
    }
    return {Verdict::good, found + ", and you may open /dev/ublk-control"};
}

// The ways of moving data that `ashlar add --data-path` can be given here.
Finding check_data_paths(std::uint64_t mask) {
    const auto has = [&](std::string_view feature) {
        return (mask & kernel::find_feature(feature)->flag) != 0;
    };
    std::string paths = "copy";
    if (has("need_get_data")) paths += ", get-data";
    if (geteuid() != 0) return {Verdict::good, fmt::format("data paths: {}", paths)};
    if (has("user_copy")) paths += ", user-copy";
    if (has("support_zero_copy")) paths += ", zero-copy-manual";
    if (has("support_zero_copy") && has("auto_buf_reg")) paths += ", zero-copy";
    return {Verdict::good, fmt::format("data paths: {}", paths)};
}

Finding check_devices(Control& control) {
    auto devices = control.list();
    if (!devices) return {Verdict::bad, devices.error().message()};
    std::size_t dead = 0;
    for (const DeviceInfo& info : *devices) dead += info.state != DeviceState::live ? 1 : 0;
    const auto limit = first_word("/sys/module/ublk_drv/parameters/ublks_max");
    const std::string text = fmt::format("{} devices, {} without a server; ublks_max is {}",
                                         devices->size(), dead, limit.value_or("unknown"));
    if (dead > 0) return {Verdict::note, text, "see 'ashlar list'; 'ashlar del N' removes one"};
    return {Verdict::good, text};
}

Finding check_state_directory() {
    const std::string& directory = state_directory();
    if (directory.empty()) {
        const Error error = no_state_directory();
        return {Verdict::bad, error.detail, error.hint};
    }
    if (access(directory.c_str(), W_OK) == 0) {
        return {Verdict::good, directory + " can be written"};
    }
    const std::string parent = fs::path(directory).parent_path().string();
    if (errno == ENOENT && access(parent.c_str(), W_OK) == 0) {
        return {Verdict::good, directory + " will be made by the first 'ashlar add'"};
    }
    return {
        Verdict::bad, directory + " cannot be written",
        geteuid() == 0 ? "mount a tmpfs on /run" : "set XDG_RUNTIME_DIR to a directory of yours"};
}

std::vector<Finding> examine() {
    std::vector<Finding> findings = {check_kernel(),          check_user(),
                                     check_driver(),          check_uring(),
                                     check_state_directory(), check_users()};
    auto control = Control::open();
    if (control) {
        findings.push_back(check_features(*control));
        if (const auto mask = control->features()) findings.push_back(check_data_paths(*mask));
        findings.push_back(check_devices(*control));
    } else {
        findings.push_back({Verdict::bad, control.error().message()});
    }
    return findings;
}

int run_doctor(bool as_json) {
    const auto findings = examine();
    bool works = true;
    auto array = nlohmann::ordered_json::array();
    for (const Finding& finding : findings) {
        works = works && finding.verdict != Verdict::bad;
        array.push_back({{"verdict", name(finding.verdict)},
                         {"what", finding.what},
                         {"advice", finding.advice}});
    }
    if (as_json) {
        const nlohmann::ordered_json json = {{"works", works}, {"findings", array}};
        fmt::print("{}\n", json_text(json, 2));
        return works ? kSuccess : kFailure;
    }
    for (const Finding& finding : findings) {
        fmt::print("{:<5} {}\n", name(finding.verdict), finding.what);
        if (!finding.advice.empty()) fmt::print("      -> {}\n", finding.advice);
    }
    fmt::print("{}\n", works ? "ublk works here." : "ublk does not work here yet.");
    return works ? kSuccess : kFailure;
}

}  // namespace

void doctor_command(CLI::App& app, Action& action) {
    CLI::App& doctor = *app.add_subcommand("doctor", "Say whether ublk works here, and why not");
    auto as_json = std::make_shared<bool>(false);
    doctor.add_flag("--json", *as_json, "Print one JSON object");
    doctor.footer(
        "Example:\n"
        "  ashlar doctor");
    doctor.callback([as_json, &action] { action = [as_json] { return run_doctor(*as_json); }; });
}

}  // namespace ashlar::cli
