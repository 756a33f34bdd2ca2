// Backend specs: a line of text that names a backend, its options and the layers on it.
//
//     file:/data/a.img,direct
//     mem:size=1G|delay:read=1ms|fault:error,rate=0.01
//     stripe:[file:/data/a.img],[file:/data/b.img,direct],chunk=64K
//
// A type, a colon, then what belongs to it with commas between; the first layer after the backend
// is the nearest to it. In paths and values a backslash takes the meaning from the comma, the pipe,
// the bracket or the backslash that follows, and \xHH is the byte of that number.
#pragma once

#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::cli {

// Text that was understood, or a sentence: what was wrong, what is allowed.
template <class T>
using Parsed = std::expected<T, std::string>;

// ---- What there is -----------------------------------------------------------------------------

// One option of a backend or a layer: "--key VALUE" of a command, "key=VALUE" of a spec.
struct OptionInfo {
    std::string_view key;
    std::string_view value;  // what it takes: "SIZE"; empty for a flag
    std::string_view help;   // one line
    bool required = false;
    bool makes = false;  // of what is opened the first time, and is not there to be opened before
    std::string_view choices{};  // the values there are, with blanks between; empty: others
};

enum class Argument {
    none,
    path,     // PATH, the first after the colon
    uri,      // URI, the same
    members,  // [SPEC], [SPEC], ...
};

struct TypeInfo {
    std::string_view name;
    std::string_view help;  // one line
    Argument argument = Argument::none;
    std::string_view argument_help{};
    unsigned members_least = 2;  // Argument::members: so many, and
    unsigned members_most = 64;
    std::span<const OptionInfo> options{};
    std::span<const std::string_view> examples{};  // what a person types after `ashlar add`
};

struct Grammar {
    std::vector<const TypeInfo*> backends;
    std::vector<const TypeInfo*> layers;
};

// Null if there is none of that name.
[[nodiscard]] const TypeInfo* find_type(std::span<const TypeInfo* const> types,
                                        std::string_view name);

// "offset=SIZE, direct": as specs write them.
[[nodiscard]] std::string list_options(const TypeInfo& type);

// ---- What was asked for ------------------------------------------------------------------------

struct SpecOption {
    std::string key;
    std::optional<std::string> value{};  // none: a flag
    friend bool operator==(const SpecOption&, const SpecOption&) = default;
};

struct Spec {
    std::string type;
    std::string path{};                  // Argument::path only
    std::string uri{};                   // Argument::uri only
    std::vector<std::string> command{};  // or this: what is to be started, and has no text
    std::vector<Spec> members{};         // Argument::members only
    std::vector<SpecOption> options{};   // as they were given
    std::vector<Spec> layers{};          // the first is the nearest to the backend
    friend bool operator==(const Spec&, const Spec&) = default;
};

// Types, keys and required options are those of the grammar; what a value says is not looked at.
[[nodiscard]] Parsed<Spec> parse_spec(std::string_view text, const Grammar& grammar);
// What may follow the first pipe of a spec: "delay:read=1ms|fault:lost".
[[nodiscard]] Parsed<std::vector<Spec>> parse_layers(std::string_view text, const Grammar& grammar);

// What parse_spec reads back as the same: printable, and UTF-8 whatever the bytes of a path are.
[[nodiscard]] std::string format_spec(const Spec& spec);

[[nodiscard]] bool has_relative_path(const Spec& spec);

// Paths that do not begin with a slash, those of URIs, members and layers too, continue from this
// directory.
void make_paths_absolute(Spec& spec, std::string_view directory);

// What opens the same once more: without the options that made it, its members and its layers.
[[nodiscard]] Spec spec_to_reopen(Spec spec, const Grammar& grammar);

}  // namespace ashlar::cli
