// parse_spec on any text: what it accepts is written back in a form that reads the same, that is
// printable, and that writes back as itself. parse_layers takes what may follow a pipe.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "cli/backend_spec.h"

namespace {

using namespace ashlar::cli;

void require(bool condition) {
    if (!condition) std::abort();
}

constexpr std::array kOptions = {OptionInfo{"size", "SIZE", ""}, OptionInfo{"direct", "", ""}};
constexpr std::array kRequired = {OptionInfo{"size", "SIZE", "", true}};
constexpr TypeInfo kNone{.name = "mem", .help = "", .options = kRequired};
constexpr TypeInfo kPath{
    .name = "file", .help = "", .argument = Argument::path, .options = kOptions};
constexpr TypeInfo kUri{.name = "nbd", .help = "", .argument = Argument::uri, .options = kOptions};
constexpr TypeInfo kMembers{
    .name = "set", .help = "", .argument = Argument::members, .options = kOptions};
constexpr TypeInfo kLayer{.name = "lag", .help = "", .options = kOptions};

void check_written(const Spec& spec, const Grammar& grammar) {
    const std::string text = format_spec(spec);
    for (const char c : text) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    const auto again = parse_spec(text, grammar);
    require(again.has_value() && *again == spec);
    require(format_spec(*again) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Grammar grammar{.backends = {&kNone, &kPath, &kUri, &kMembers}, .layers = {&kLayer}};
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    auto spec = parse_spec(text, grammar);
    require(spec.has_value() || !spec.error().empty());
    if (spec) {
        check_written(*spec, grammar);
        make_paths_absolute(*spec, "/in");
        require(!has_relative_path(*spec));
        check_written(*spec, grammar);
    }
    const auto layers = parse_layers(text, grammar);
    if (layers)
        check_written({.type = "mem", .options = {{"size", "1"}}, .layers = *layers}, grammar);
    return 0;
}
