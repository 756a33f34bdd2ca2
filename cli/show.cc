// ashlar show N: everything about one device.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>

#include "base/units.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

// The counters, from the server; null when it is not ours, or gone.
nlohmann::ordered_json queue_counters(const DeviceInfo& info) {
    if (info.state != DeviceState::live) return nullptr;
    auto reply = ask_server(info.id, {{"request", "counters"}});
    if (!reply || !reply->contains("queues")) return nullptr;
    return nlohmann::ordered_json((*reply)["queues"]);
}

void print_for_people(const DeviceReport& report, const nlohmann::ordered_json& queues) {
    const auto line = [](std::string_view name, const std::string& value) {
        fmt::print("{:<20} {}\n", name, value);
    };
    const DeviceInfo& info = report.info;
    const Geometry& geometry = report.params.geometry;
    const Capabilities& can = report.params.capabilities;
    line("device", fmt::format("/dev/ublkb{}", info.id));
    line("state", std::string(name(info.state)));
    line("type", report.type.empty() ? "-" : report.type);
    line("server pid", info.pid > 0 ? std::to_string(info.pid) : "-");
    line("size", fmt::format("{} ({} bytes)", format_size(geometry.size), geometry.size));
    line("block size", fmt::format("{} logical, {} physical", geometry.logical_block_size,
                                   geometry.physical_block_size));
    line("queues", fmt::format("{} of depth {}", info.queues, info.depth));
    line("largest request", format_size(info.io_max));
    line("access", can.read_only ? "read-only" : "read-write");
    line("discard", can.discard ? "yes" : "no");
    line("write zeroes", can.write_zeroes ? "yes" : "no");
    line("volatile cache", can.flush ? (can.fua ? "yes, with FUA" : "yes") : "no");
    line("features", fmt::format("{}", fmt::join(feature_names(info.features), " ")));
    if (!queues.is_array()) return;
    for (std::size_t index = 0; index < queues.size(); ++index) {
        const auto& queue = queues[index];
        const auto number = [&](const char* key) { return queue.value(key, std::uint64_t{0}); };
        line(fmt::format("queue {}", index),
             fmt::format("{} reads ({}), {} writes ({}), {} flushes, {} discards, {} write zeroes, "
                         "{} errors",
                         number("reads"), format_size(number("read_bytes")), number("writes"),
                         format_size(number("write_bytes")), number("flushes"), number("discards"),
                         number("write_zeroes"), number("errors")));
    }
}

int show_device(const std::string& text, bool as_json) {
    const auto id = named_device(text);
    if (!id) return kUsage;
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto info = control->info(*id);
    if (!info) return fail(info.error());
    auto report = report_device(*control, *info);
    if (!report) return fail(report.error());
    const auto queues = queue_counters(*info);
    if (as_json) {
        auto json = to_json(*report);
        json["queue_counters"] = queues;
        fmt::print("{}\n", json.dump(2));
    } else {
        print_for_people(*report, queues);
    }
    return kSuccess;
}

}  // namespace

void show_command(CLI::App& app, Action& action) {
    CLI::App& show = *app.add_subcommand("show", "Show one device in full");
    auto device = std::make_shared<std::string>();
    auto as_json = std::make_shared<bool>(false);
    show.add_option("device", *device, "Its number or path")->required()->type_name("N");
    show.add_flag("--json", *as_json, "Print one JSON object");
    show.callback([device, as_json, &action] {
        action = [device, as_json] { return show_device(*device, *as_json); };
    });
}

}  // namespace ashlar::cli
