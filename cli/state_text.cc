#include "cli/state_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ashlar::cli {
namespace {

constexpr std::uint64_t kVersion = 1;

bool is_plain_word(const std::string& text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
}

}  // namespace

std::string format_state(const ServerState& state) {
    const nlohmann::json json = {{"version", kVersion},        {"id", state.id},
                                 {"identity", state.identity}, {"pid", state.pid},
                                 {"type", state.type},         {"backend", state.backend}};
    return json.dump() + "\n";
}

std::optional<ServerState> parse_state(DeviceId id, std::string_view text) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object()) return std::nullopt;
    const auto number = [&](const char* key) -> std::optional<std::uint64_t> {
        const auto found = json.find(key);
        if (found == json.end() || !found->is_number_unsigned()) return std::nullopt;
        return found->get<std::uint64_t>();
    };
    const auto word = [&](const char* key) -> std::string {
        const auto found = json.find(key);
        if (found == json.end() || !found->is_string()) return {};
        return found->get<std::string>();
    };
    if (number("version") != kVersion || !number("identity") || !number("pid") ||
        !is_plain_word(word("type"))) {
        return std::nullopt;
    }
    return ServerState{.id = id,
                       .identity = *number("identity"),
                       .pid = static_cast<std::int32_t>(*number("pid")),
                       .type = word("type"),
                       .backend = word("backend")};
}

}  // namespace ashlar::cli
