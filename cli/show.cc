// ashlar show N: everything about one device.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>

#include "base/units.h"
#include "cli/ask_metrics.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/json_text.h"
#include "cli/metrics_text.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

// An answer of the server; null when it is not ours, or gone, or too old to know.
nlohmann::ordered_json ask(const DeviceInfo& info, const char* request) {
    if (info.state != DeviceState::live) return nullptr;
    auto reply = ask_server(info.id, {{"request", request}});
    if (!reply || !reply->is_object() || reply->contains("error")) return nullptr;
    return nlohmann::ordered_json(*reply);
}

// One member of an answer; null when there is none.
nlohmann::ordered_json member(const nlohmann::ordered_json& reply, const char* key) {
    if (!reply.is_object() || !reply.contains(key)) return nullptr;
    return reply[key];
}

void print_line(std::string_view name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
}

// "zero-copy (why)".
std::string choice(const nlohmann::ordered_json& served, const std::string& key) {
    return fmt::format("{} ({})", served.value(key, "-"), served.value(key + "_reason", "-"));
}

// What is on in one line; what could not be had, and why, each in its own.
void print_protections(const nlohmann::ordered_json& protections) {
    if (!protections.is_object()) return;
    std::vector<std::string> active;
    for (const auto& [name, each] : protections.items()) {
        if (each.value("active", false)) active.push_back(name);
    }
    print_line("protections", active.empty() ? "-" : fmt::format("{}", fmt::join(active, " ")));
    for (const auto& [name, each] : protections.items()) {
        if (each.value("active", false)) continue;
        print_line("not protected", name + ": " + each.value("detail", ""));
    }
}

void print_served(const nlohmann::ordered_json& served) {
    if (!served.is_object()) return;
    print_line("data path", choice(served, "data_path"));
    print_line("commands", choice(served, "commands"));
    print_line("threads", std::to_string(served.value("threads", 1U)));
    print_protections(member(served, "protections"));
    if (const auto looks = served.value("busy_poll_us", std::uint64_t{0}); looks != 0) {
        print_line("busy polling", fmt::format("{} us before a thread sleeps", looks));
    }
    const auto polling = member(served, "submission_polling");
    if (!polling.is_object()) return;
    const auto cpu = member(polling, "cpu");
    print_line("submission polling",
               fmt::format("on {}, {} ms before it sleeps",
                           cpu.is_number() ? fmt::format("CPU {}", cpu.get<unsigned>()) : "any CPU",
                           polling.value("idle_ms", std::uint64_t{0})));
}

void print_queues(const nlohmann::ordered_json& queues) {
    if (!queues.is_array()) return;
    for (std::size_t index = 0; index < queues.size(); ++index) {
        const auto& queue = queues[index];
        const auto number = [&](const char* key) { return queue.value(key, std::uint64_t{0}); };
        print_line(
            fmt::format("queue {}", index),
            fmt::format("{} reads ({}), {} writes ({}), {} flushes, {} discards, {} write zeroes, "
                        "{} errors",
                        number("reads"), format_size(number("read_bytes")), number("writes"),
                        format_size(number("write_bytes")), number("flushes"), number("discards"),
                        number("write_zeroes"), number("errors")));
    }
}

void print_for_people(const DeviceReport& report) {
    const DeviceInfo& info = report.info;
    const Geometry& geometry = report.params.geometry;
    const Capabilities& can = report.params.capabilities;
    print_line("device", fmt::format("/dev/ublkb{}", info.id));
    print_line("state", std::string(name(info.state)));
    print_line("type", report.type.empty() ? "-" : report.type);
    if (!report.backend.empty()) print_line("backend", report.backend);
    print_line("owner", fmt::format("user {}", info.owner_uid));
    print_line("server pid", info.pid > 0 ? std::to_string(info.pid) : "-");
    print_line("size", fmt::format("{} ({} bytes)", format_size(geometry.size), geometry.size));
    print_line("block size", fmt::format("{} logical, {} physical", geometry.logical_block_size,
                                         geometry.physical_block_size));
    print_line("queues", fmt::format("{} of depth {}", info.queues, info.depth));
    print_line("largest request", format_size(info.io_max));
    print_line("access", can.read_only ? "read-only" : "read-write");
    print_line("discard", can.discard ? "yes" : "no");
    print_line("write zeroes", can.write_zeroes ? "yes" : "no");
    print_line("volatile cache", can.flush ? (can.fua ? "yes, with FUA" : "yes") : "no");
    print_line("features", fmt::format("{}", fmt::join(feature_names(info.features), " ")));
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
    const auto served = ask(*info, "info");
    nlohmann::ordered_json queues = nullptr;
    if (const auto metrics = ask_metrics(*info)) {
        queues = nlohmann::ordered_json::array();
        for (const QueueMetrics& queue : metrics->queues) queues.push_back(counts_json(queue));
    }
    if (as_json) {
        auto json = to_json(*report);
        for (const char* key : {"data_path", "data_path_reason", "commands", "commands_reason",
                                "threads", "threads_per_queue", "submission_polling",
                                "busy_poll_us", "recovery", "protections"}) {
            json[key] = member(served, key);
        }
        json["queue_counters"] = queues;
        fmt::print("{}\n", json_text(json, 2));
    } else {
        print_for_people(*report);
        print_served(served);
        print_queues(queues);
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
    show.footer(
        "Examples:\n"
        "  ashlar show 0\n"
        "  ashlar show /dev/ublkb0 --json");
    show.callback([device, as_json, &action] {
        action = [device, as_json] { return show_device(*device, *as_json); };
    });
}

}  // namespace ashlar::cli
