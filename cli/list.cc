// ashlar list: every ublk device of this machine.
#include <fmt/format.h>
#include <memory>

#include "base/units.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/json_text.h"

namespace ashlar::cli {
namespace {

int list_devices(bool as_json) {
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto devices = control->list();
    if (!devices) return fail(devices.error());
    int status = kSuccess;
    auto array = nlohmann::ordered_json::array();
    if (!as_json) {
        fmt::print("{:<14} {:<9} {:<6} {:>10} {:>6} {:>5} {:>8}\n", "DEVICE", "STATE", "TYPE",
                   "SIZE", "QUEUES", "DEPTH", "PID");
    }
    for (const DeviceInfo& info : *devices) {
        auto report = report_device(*control, info);
        if (!report && report.error().code == ENODEV) continue;  // removed meanwhile
        if (!report) {
            // One device that does not answer hides none of the others.
            status = fail(report.error());
            continue;
        }
        if (as_json) {
            array.push_back(to_json(*report));
            continue;
        }
        fmt::print("{:<14} {:<9} {:<6} {:>10} {:>6} {:>5} {:>8}\n",
                   fmt::format("/dev/ublkb{}", info.id), name(info.state),
                   report->type.empty() ? "-" : report->type,
                   format_size(report->params.geometry.size), info.queues, info.depth,
                   info.pid > 0 ? std::to_string(info.pid) : "-");
    }
    if (as_json) fmt::print("{}\n", json_text(array, 2));
    return status;
}

}  // namespace

void list_command(CLI::App& app, Action& action) {
    CLI::App& list = *app.add_subcommand("list", "Show all devices");
    auto as_json = std::make_shared<bool>(false);
    list.add_flag("--json", *as_json, "Print a JSON array");
    list.footer(
        "Examples:\n"
        "  ashlar list\n"
        "  ashlar list --json | jq -r '.[].path'");
    list.callback([as_json, &action] { action = [as_json] { return list_devices(*as_json); }; });
}

}  // namespace ashlar::cli
