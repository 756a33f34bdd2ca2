// ashlar quiesce and ashlar stop: a device keeps its id and its settings, but not its server.
#include <fmt/format.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>

#include <ashlar/control.h>

#include "cli/command.h"
#include "cli/in_use.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

struct PauseOptions {
    std::string device;
    bool if_unused = false;
};

int ask(DeviceId id, nlohmann::json request) {
    request["pause"] = true;
    return tell_server(id, request, 60s);
}

int run_quiesce(const PauseOptions& options) {
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    const Fd lock = lock_server(*id);
    return ask(*id, {{"request", "quiesce"}});
}

// The driver tells since 7.0 whether somebody has the disk open; before that, those that can be
// seen must do.
int stop_unused(DeviceId id) {
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto features = control->features();
    if (!features) return fail(features.error());
    constexpr std::string_view ability = "safe_stop_dev";
    const auto names = feature_names(*features);
    const bool driver_tells = std::ranges::find(names, ability) != names.end();
    auto user = who_uses(id);
    if (!user) user = who_has_open(id);
    if (user) {
        complain(fmt::format("/dev/ublkb{} is in use: {}; release it first", id, *user));
        return kFailure;
    }
    return ask(id, {{"request", "stop"}, {"if_unused", driver_tells}});
}

int run_stop(const PauseOptions& options) {
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    const Fd lock = lock_server(*id);
    if (options.if_unused) return stop_unused(*id);
    return ask(*id, {{"request", "stop"}});
}

}  // namespace

void quiesce_command(CLI::App& app, Action& action) {
    CLI::App& quiesce =
        *app.add_subcommand("quiesce", "End a device's server; its users wait until 'recover'");
    auto options = std::make_shared<PauseOptions>();
    quiesce.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    quiesce.footer(
        "Examples:\n"
        "  ashlar quiesce 0\n"
        "  ashlar recover 0             and it goes on\n"
        "\nWhat is in its server's memory goes with that: such a disk can only be removed, 'ashlar "
        "del'.");
    quiesce.callback([options, &action] { action = [options] { return run_quiesce(*options); }; });
}

void stop_command(CLI::App& app, Action& action) {
    CLI::App& stop = *app.add_subcommand(
        "stop", "Take the block device away, but keep the device for 'recover'");
    auto options = std::make_shared<PauseOptions>();
    stop.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    stop.add_flag("--if-unused", options->if_unused, "Only if nobody has it open");
    stop.footer(
        "Example:\n"
        "  ashlar stop 0 --if-unused\n"
        "\nWhat is in its server's memory goes with that: such a disk can only be removed, 'ashlar "
        "del'.");
    stop.callback([options, &action] { action = [options] { return run_stop(*options); }; });
}

}  // namespace ashlar::cli
