#include "cli/state_text.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "cli/json_text.h"

namespace ashlar::cli {
namespace {

constexpr std::uint64_t kVersion = 2;

bool is_plain_word(const std::string& text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
}

// Text in JSON is UTF-8, and a path need not be: such a one is an array of its bytes.
nlohmann::json put_text(const std::string& text) {
    nlohmann::json plain = text;
    if (nlohmann::json::parse(json_text(plain)) == plain) return plain;
    auto bytes = nlohmann::json::array();
    for (const char c : text) bytes.push_back(static_cast<std::uint8_t>(c));
    return bytes;
}

std::optional<std::string> get_text(const nlohmann::json& json) {
    if (json.is_string()) return json.get<std::string>();
    if (!json.is_array()) return std::nullopt;
    std::string text;
    for (const auto& byte : json) {
        if (!byte.is_number_unsigned() || byte.get<std::uint64_t>() > UINT8_MAX)
            return std::nullopt;
        text += static_cast<char>(byte.get<std::uint8_t>());
    }
    return text;
}

}  // namespace

std::string format_state(const ServerState& state) {
    auto options = nlohmann::json::array();
    for (const SpecOption& option : state.options) {
        auto words = nlohmann::json::array({put_text(option.key)});
        if (option.value) words.push_back(put_text(*option.value));
        options.push_back(std::move(words));
    }
    const nlohmann::json json = {{"version", kVersion},
                                 {"id", state.id},
                                 {"identity", state.identity},
                                 {"pid", state.pid},
                                 {"type", state.type},
                                 {"backend", put_text(state.backend)},
                                 {"options", options},
                                 {"size", state.size},
                                 {"store", put_text(state.store)},
                                 {"log", put_text(state.log_file)},
                                 {"program", put_text(state.program)},
                                 {"supervisor", state.supervisor},
                                 {"supervisor_start", state.supervisor_start},
                                 {"recoveries", state.recoveries},
                                 {"paused", state.paused},
                                 {"declared_in", put_text(state.declared_in)},
                                 {"declared_as", put_text(state.declared_as)},
                                 {"shared", state.shared}};
    return json_text(json) + "\n";
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
    if (found == json.end()) return {};
    return get_text(*found).value_or("");
}

std::optional<std::vector<SpecOption>> options(const nlohmann::json& json) {
    const auto found = json.find("options");
    if (found == json.end() || !found->is_array()) return std::nullopt;
    std::vector<SpecOption> all;
    for (const auto& each : *found) {
        if (!each.is_array() || each.empty() || each.size() > 2) return std::nullopt;
        const auto key = get_text(each[0]);
        const auto value = get_text(each.back());
        if (!key || !value) return std::nullopt;
        SpecOption option{.key = *key};
        if (each.size() == 2) option.value = *value;
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
