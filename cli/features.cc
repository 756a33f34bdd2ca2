// ashlar features: what the running driver can do.
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/json_text.h"

namespace ashlar::cli {
namespace {

int show_features(bool as_json) {
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto mask = control->features();
    if (!mask) return fail(mask.error());
    if (as_json) {
        nlohmann::ordered_json json;
        json["mask"] = fmt::format("{:#x}", *mask);
        json["features"] = nlohmann::ordered_json::array();
        for (const auto& feature : known_features()) {
            json["features"].push_back({{"name", feature.name},
                                        {"available", (*mask & feature.flag) != 0},
                                        {"since", feature.since},
                                        {"what", feature.what}});
        }
        fmt::print("{}\n", json_text(json, 2));
        return kSuccess;
    }
    fmt::print("{:<24} {:<9} {:<7} {}\n", "FEATURE", "AVAILABLE", "SINCE", "WHAT");
    for (const auto& feature : known_features()) {
        fmt::print("{:<24} {:<9} {:<7} {}\n", feature.name,
                   (*mask & feature.flag) != 0 ? "yes" : "no", feature.since, feature.what);
    }
    return kSuccess;
}

}  // namespace

void features_command(CLI::App& app, Action& action) {
    CLI::App& features = *app.add_subcommand("features", "Show what the kernel's driver can do");
    auto as_json = std::make_shared<bool>(false);
    features.add_flag("--json", *as_json, "Print one JSON object");
    features.footer(
        "Example:\n"
        "  ashlar features --json");
    features.callback(
        [as_json, &action] { action = [as_json] { return show_features(*as_json); }; });
}

}  // namespace ashlar::cli
