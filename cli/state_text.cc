#include "cli/state_text.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

namespace ashlar::cli {
namespace {

constexpr std::uint64_t kVersion = 2;

bool is_plain_word(const std::string& text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
}

}  // namespace

std::string format_state(const ServerState& state) {
    auto options = nlohmann::json::array();
    for (const SpecOption& option : state.options) {
        options.push_back(option.value ? nlohmann::json::array({option.key, *option.value})
                                       : nlohmann::json::array({option.key}));
    }
    const nlohmann::json json = {{"version", kVersion},
                                 {"id", state.id},
                                 {"identity", state.identity},
                                 {"pid", state.pid},
                                 {"type", state.type},
                                 {"backend", state.backend},
                                 {"options", options},
                                 {"size", state.size},
                                 {"store", state.store},
                                 {"log", state.log_file},
                                 {"program", state.program},
                                 {"supervisor", state.supervisor},
                                 {"supervisor_start", state.supervisor_start},
                                 {"recoveries", state.recoveries},
                                 {"paused", state.paused},
                                 {"declared_in", state.declared_in},
                                 {"declared_as", state.declared_as},
                                 {"shared", state.shared}};
    // A path need not be UTF-8; such a device cannot be recovered from here.
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

namespace {

std::optional<std::uint64_t> number(const nlohmann::json& json, const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_unsigned()) return std::nullopt;
    return found->get<std::uint64_t>();
}

// 0 if it is not there; empty for what no process can be: another one would be asked, or killed.
std::optional<std::int32_t> process(const nlohmann::json& json, const char* key) {
    if (!json.contains(key)) return 0;
    const auto pid = number(json, key);
    if (!pid || *pid > INT32_MAX) return std::nullopt;
    return static_cast<std::int32_t>(*pid);
}

std::string word(const nlohmann::json& json, const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) return {};
    return found->get<std::string>();
}

std::optional<std::vector<SpecOption>> options(const nlohmann::json& json) {
    const auto found = json.find("options");
    if (found == json.end() || !found->is_array()) return std::nullopt;
    std::vector<SpecOption> all;
    for (const auto& each : *found) {
        if (!each.is_array() || each.empty() || each.size() > 2) return std::nullopt;
        for (const auto& part : each) {
            if (!part.is_string()) return std::nullopt;
        }
        SpecOption option{.key = each[0].get<std::string>()};
        if (each.size() == 2) option.value = each[1].get<std::string>();
        all.push_back(std::move(option));
    }
    return all;
}

}  // namespace

std::optional<ServerState> parse_state(DeviceId id, std::string_view text) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object() || number(json, "version") != kVersion) return std::nullopt;
    const auto identity = number(json, "identity");
    const auto pid = process(json, "pid");
    const auto supervisor = process(json, "supervisor");
    auto given = options(json);
    if (!identity || pid.value_or(0) == 0 || !supervisor || !given) return std::nullopt;
    if (!is_plain_word(word(json, "type"))) return std::nullopt;
    return ServerState{.id = id,
                       .identity = *identity,
                       .pid = *pid,
                       .type = word(json, "type"),
                       .backend = word(json, "backend"),
                       .options = std::move(*given),
                       .size = number(json, "size").value_or(0),
                       .store = word(json, "store"),
                       .log_file = word(json, "log"),
                       .program = word(json, "program"),
                       .supervisor = *supervisor,
                       .supervisor_start = number(json, "supervisor_start").value_or(0),
                       .recoveries = number(json, "recoveries").value_or(0),
                       .paused = json.value("paused", nlohmann::json()) == true,
                       .declared_in = word(json, "declared_in"),
                       .declared_as = word(json, "declared_as"),
                       .shared = json.value("shared", nlohmann::json()) == true};
}

}  // namespace ashlar::cli
