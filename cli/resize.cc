// ashlar resize N SIZE: a disk grows, or shrinks, while it is in use.
#include <fmt/format.h>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/units.h"
#include "cli/command.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

struct ResizeOptions {
    std::string device;
    std::string size;
    bool force = false;
};

// "2G", or "+1G": that much more than now.
std::expected<std::uint64_t, std::string> wanted_size(std::string_view text, std::uint64_t now) {
    const bool more = text.starts_with('+');
    auto size = parse_size(more ? text.substr(1) : text);
    if (!size || !more) return size;
    if (*size > UINT64_MAX - now) return std::unexpected(std::string(text) + " is too large");
    return *size + now;
}

int run_resize(const ResizeOptions& options) {
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    const Fd lock = lock_server(*id);
    auto control = Control::open();
    if (!control) return fail(control.error());
    const auto params = control->params(*id);
    if (!params) return fail(params.error());
    const std::uint64_t now = params->geometry.size;
    const auto size = wanted_size(options.size, now);
    if (!size) {
        complain(size.error());
        return kUsage;
    }
    if (*size < now && !options.force) {
        complain(
            fmt::format("/dev/ublkb{} has {} bytes, and {} is less: what lies beyond would be "
                        "lost; shrink what is on it first, then use --force",
                        *id, now, *size));
        return kFailure;
    }
    return tell_server(*id, {{"request", "resize"}, {"size", *size}}, 60s);
}

}  // namespace

void resize_command(CLI::App& app, Action& action) {
    CLI::App& resize = *app.add_subcommand("resize", "Give a disk another size while it is in use");
    auto options = std::make_shared<ResizeOptions>();
    resize.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    resize.add_option("size", options->size, "Of the disk from now on: 2G, or +1G for 1G more")
        ->type_name("SIZE")
        ->required();
    resize.add_flag("--force", options->force, "Even if it becomes smaller; the rest is lost");
    resize.footer(
        "A file of its own grows and shrinks with the disk. A part of a file, or a block device,\n"
        "must be large enough, and shows what lies there. What is on the disk is told next:\n"
        "'resize2fs /dev/ublkb0', 'xfs_growfs /mnt'.\n"
        "\nExamples:\n  ashlar resize 0 2G\n  ashlar resize 0 +512M\n  ashlar resize 0 100M "
        "--force");
    resize.callback([options, &action] { action = [options] { return run_resize(*options); }; });
}

}  // namespace ashlar::cli
