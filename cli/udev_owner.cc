// ashlar udev-owner NODE: udev has it run, as root, for each new node of the driver's. The node of
// an unprivileged device becomes its user's; any other stays as it is.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "cli/command.h"
#include "kernel/features.h"

namespace ashlar::cli {
namespace {

struct Node {
    DeviceId id = 0;
    bool is_block = false;
    std::string path;
};

// "ublkb0" or "ublkc0"; a partition's name is none.
std::optional<Node> parse_node(std::string_view name) {
    const bool is_block = name.starts_with("ublkb");
    if (!is_block && !name.starts_with("ublkc")) return std::nullopt;
    const auto id = parse_device(name);
    if (!id) return std::nullopt;
    return Node{.id = *id, .is_block = is_block, .path = fmt::format("/dev/{}", name)};
}

// The number that the kernel gave it. Not by GET_PARAMS, which waits for the START_DEV of which
// this is a part.
std::optional<dev_t> number_of(const Node& node) {
    const char* directory = node.is_block ? "/sys/block/ublkb" : "/sys/class/ublk-char/ublkc";
    std::ifstream file(fmt::format("{}{}/dev", directory, node.id));
    unsigned major = 0;
    unsigned minor = 0;
    char colon = 0;
    if (!(file >> major >> colon >> minor) || colon != ':') return std::nullopt;
    return makedev(major, minor);
}

int fail_with(const Node& node, int code) {
    return fail(Error{.operation = "change the owner of " + node.path, .code = code});
}

// The kernel takes a device's node from its owner when the device goes, while it holds the
// directory; what asks to remove something there waits until it has removed it. There is nothing
// that it could remove.
bool is_still_there(const Node& node, const struct stat& opened) {
    struct stat there{};
    static_cast<void>(rmdir(node.path.c_str()));
    return stat(node.path.c_str(), &there) == 0 && there.st_dev == opened.st_dev &&
           there.st_ino == opened.st_ino;
}

// By the open node and not by its name, under which another device's may lie by the next moment.
// The owner is asked for after the node was opened, so it is this device's owner, or the node is of
// a device that is gone: that one is taken back, for its number may be another device's next, and
// whoever still refers to it must not be able to open that.
int give_away(const Node& node) {
    const Fd fd(open(node.path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat opened{};
    if (!fd.valid() || fstat(fd.get(), &opened) != 0) {
        return errno == ENOENT ? kSuccess : fail_with(node, errno);  // gone meanwhile
    }
    const auto number = number_of(node);
    const bool is_node = node.is_block ? S_ISBLK(opened.st_mode) : S_ISCHR(opened.st_mode);
    if (!number || !is_node || opened.st_rdev != *number) return kSuccess;
    auto control = Control::open();
    if (!control) return fail(control.error());
    const auto info = control->info(node.id);
    if (!info) return info.error().code == ENODEV ? kSuccess : fail(info.error());
    const std::uint64_t unprivileged = kernel::find_feature("unprivileged_dev")->flag;
    if ((info->features & unprivileged) == 0) return kSuccess;
    constexpr auto same_group = static_cast<gid_t>(-1);
    if (fchownat(fd.get(), "", info->owner_uid, same_group, AT_EMPTY_PATH) != 0) {
        return fail_with(node, errno);
    }
    if (is_still_there(node, opened)) return kSuccess;
    static_cast<void>(fchownat(fd.get(), "", 0, 0, AT_EMPTY_PATH));
    static_cast<void>(chmod(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), 0));
    return kSuccess;
}

int run(const std::string& name) {
    const auto node = parse_node(name);
    if (!node) {
        complain(fmt::format("'{}' is no node of the driver's; write ublkbN or ublkcN", name));
        return kUsage;
    }
    return give_away(*node);
}

}  // namespace

void udev_owner_command(CLI::App& app, Action& action) {
    CLI::App& command = *app.add_subcommand("udev-owner", "Give a user's device to its user");
    command.group("");  // for udev, not for people
    auto name = std::make_shared<std::string>();
    command.add_option("node", *name, "ublkbN or ublkcN")->type_name("NODE")->required();
    command.callback([name, &action] { action = [name] { return run(*name); }; });
}

}  // namespace ashlar::cli
