#include "cli/backend_spec.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <utility>

#include "cli/nbd_uri.h"

namespace ashlar::cli {
namespace {

constexpr unsigned kNestingMost = 8;
constexpr std::string_view kEscapable = "\\,|[]";

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

std::string list_names(std::span<const TypeInfo* const> types) {
    std::string names;
    for (const TypeInfo* type : types) {
        names += names.empty() ? "" : ", ";
        names += type->name;
    }
    return names;
}

// Reads from left to right. The first complaint is kept, and ends every loop by ending the text.
class Parser {
public:
    Parser(std::string_view text, const Grammar& grammar) : rest_(text), grammar_(grammar) {}

    Spec backend() {
        Spec spec = one(grammar_.backends, "backend");
        if (take('|')) spec.layers = layers();
        return spec;
    }

    std::vector<Spec> layers() {
        std::vector<Spec> layers;
        do {
            layers.push_back(one(grammar_.layers, "layer"));
        } while (take('|'));
        return layers;
    }

    template <class T>
    Parsed<T> ended_with(T result) {
        if (complaint_) return std::unexpected(*complaint_);
        return result;
    }

private:
    void complain(std::string message) {
        if (!complaint_) complaint_ = std::move(message);
        rest_ = {};
    }

    bool next_is(char c) const { return rest_.starts_with(c); }
    bool take(char c) {
        if (!next_is(c)) return false;
        rest_.remove_prefix(1);
        return true;
    }

    // Whether an unescaped character ends a text; a bracket does so only inside of brackets.
    bool ends_text(char c) const { return c == ',' || c == '|' || (c == ']' && depth_ > 0); }

    Spec one(std::span<const TypeInfo* const> types, std::string_view kind) {
        const auto end = std::ranges::find_if(
            rest_, [&](char c) { return c == ':' || c == '\\' || ends_text(c); });
        Spec spec{.type = std::string(rest_.begin(), end)};
        rest_.remove_prefix(spec.type.size());
        const TypeInfo* type = find_type(types, spec.type);
        if (type == nullptr) {
            complain(refuse_type(spec.type, types, kind));
            return spec;
        }
        read_parts(*type, spec);
        if (!complaint_ && !rest_.empty() && !next_is('|') && !(depth_ > 0 && next_is(']'))) {
            complain(
                fmt::format("{}: '{}' is not expected here; write ',' before an option, '|' "
                            "before a layer",
                            type->name, rest_));
        }
        check_complete(*type, spec);
        return spec;
    }

    std::string refuse_type(std::string_view name, std::span<const TypeInfo* const> types,
                            std::string_view kind) const {
        const std::string known = list_names(types);
        if (name.empty()) return fmt::format("a {} is missing; known are {}", kind, known);
        std::string hint;
        if (name.find('/') != std::string_view::npos &&
            find_type(grammar_.backends, "file") != nullptr && kind == "backend") {
            hint = fmt::format("; a file is file:{}", name);
        }
        return fmt::format("'{}' is no {}; known are {}{}", name, kind, known, hint);
    }

    void read_parts(const TypeInfo& type, Spec& spec) {
        if (!take(':')) return;
        if (type.argument == Argument::path) {
            spec.path = text();
            if (!take(',')) return;
        }
        if (type.argument == Argument::uri) {
            spec.uri = text();
            if (!take(',')) return;
        }
        do {
            if (type.argument == Argument::members && next_is('[')) {
                spec.members.push_back(member(type));
            } else {
                option(type, spec);
            }
        } while (take(','));
    }

    Spec member(const TypeInfo& type) {
        take('[');
        if (depth_ == kNestingMost) {
            complain(
                fmt::format("{}: more than {} brackets in each other", type.name, kNestingMost));
            return {};
        }
        ++depth_;
        Spec spec = backend();
        --depth_;
        if (!complaint_ && !take(']')) {
            complain(fmt::format("{}: a ']' is missing at the end", type.name));
        }
        return spec;
    }

    void option(const TypeInfo& type, Spec& spec) {
        const auto end =
            std::ranges::find_if(rest_, [&](char c) { return c == '=' || ends_text(c); });
        SpecOption option{.key = std::string(rest_.begin(), end)};
        rest_.remove_prefix(option.key.size());
        if (take('=')) option.value = text();
        if (complaint_) return;
        const auto known = std::ranges::find(type.options, option.key, &OptionInfo::key);
        if (known == type.options.end()) {
            const std::string what = option.key.empty()
                                         ? "an option is missing after ':', ',' or before '='"
                                         : fmt::format("'{}' is no option", option.key);
            complain(fmt::format("{}: {}; allowed are {}", type.name, what, list_options(type)));
        } else if (known->value.empty() && option.value) {
            complain(fmt::format("{0}: {1} takes no value; write {1}", type.name, option.key));
        } else if (!known->value.empty() && !option.value) {
            complain(fmt::format("{}: {} needs a value; write {}={}", type.name, option.key,
                                 option.key, known->value));
        } else if (std::ranges::find(spec.options, option.key, &SpecOption::key) !=
                   spec.options.end()) {
            complain(fmt::format("{}: {} is given twice; give it once", type.name, option.key));
        }
        spec.options.push_back(std::move(option));
    }

    void check_complete(const TypeInfo& type, const Spec& spec) {
        if (type.argument == Argument::path && spec.path.empty()) {
            complain(fmt::format("{0} needs a path; write {0}:PATH", type.name));
        }
        if (type.argument == Argument::uri && spec.uri.empty()) {
            complain(fmt::format("{0} needs a URI; write {0}:URI", type.name));
        }
        if (type.argument == Argument::members && spec.members.empty()) {
            complain(fmt::format("{0} needs members; write {0}:[SPEC],[SPEC]", type.name));
        }
        for (const OptionInfo& option : type.options) {
            if (!option.required) continue;
            if (std::ranges::find(spec.options, option.key, &SpecOption::key) ==
                spec.options.end()) {
                complain(fmt::format("{0} needs {1}; write {0}:{1}={2}", type.name, option.key,
                                     option.value));
            }
        }
    }

    std::string text() {
        std::string result;
        while (!rest_.empty() && !ends_text(rest_.front())) {
            const char c = rest_.front();
            rest_.remove_prefix(1);
            if (c == '\0') complain("a spec holds no byte of value zero");
            result += c == '\\' ? escaped() : c;
        }
        return result;
    }

    // What follows a backslash.
    char escaped() {
        if (!rest_.empty() && kEscapable.find(rest_.front()) != std::string_view::npos) {
            const char c = rest_.front();
            rest_.remove_prefix(1);
            return c;
        }
        if (rest_.size() >= 3 && rest_.front() == 'x') {
            const int high = hex_digit(rest_[1]);
            const int low = hex_digit(rest_[2]);
            if (high >= 0 && low >= 0 && high + low > 0) {
                rest_.remove_prefix(3);
                return static_cast<char>(high * 16 + low);
            }
        }
        complain(
            fmt::format("'\\{}' stands for nothing; a backslash is written \\\\, and before , "
                        "| [ or ] it takes their meaning away",
                        rest_.substr(0, 1)));
        return '\0';
    }

    std::string_view rest_;
    const Grammar& grammar_;
    unsigned depth_ = 0;  // of brackets
    std::optional<std::string> complaint_;
};

// How many bytes the character takes that the text begins with; 0 if that is not UTF-8.
std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned lead = byte(0);
    if (lead < 0x80) return 1;
    const std::size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (length == 0 || lead > 0xf4 || length > text.size()) return 0;
    for (std::size_t at = 1; at < length; ++at) {
        if ((byte(at) & 0xc0) != 0x80) return 0;
    }
    // Written longer than need be, a half of a pair, or past the last one.
    const unsigned second = byte(1);
    if (lead == 0xe0 && second < 0xa0) return 0;
    if (lead == 0xed && second > 0x9f) return 0;
    if (lead == 0xf0 && second < 0x90) return 0;
    if (lead == 0xf4 && second > 0x8f) return 0;
    return length;
}

std::string escape(std::string_view text, bool nested) {
    std::string result;
    while (!text.empty()) {
        const char c = text.front();
        std::size_t length = utf8_length(text);
        const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
        if (length == 0 || control) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
            length = 1;
        } else {
            if (c == '\\' || c == ',' || c == '|' || (nested && c == ']')) result += '\\';
            result += text.substr(0, length);
        }
        text.remove_prefix(length);
    }
    return result;
}

std::string format_nested(const Spec& spec, bool nested) {
    std::string parts;
    const auto add = [&](const std::string& part) {
        parts += parts.empty() ? ":" : ",";
        parts += part;
    };
    if (!spec.path.empty()) add(escape(spec.path, nested));
    if (!spec.uri.empty()) add(escape(spec.uri, nested));
    for (const Spec& member : spec.members) add("[" + format_nested(member, true) + "]");
    for (const SpecOption& option : spec.options) {
        add(option.value ? option.key + "=" + escape(*option.value, nested) : option.key);
    }
    std::string text = spec.type + parts;
    for (const Spec& layer : spec.layers) text += "|" + format_nested(layer, nested);
    return text;
}

}  // namespace

const TypeInfo* find_type(std::span<const TypeInfo* const> types, std::string_view name) {
    const auto found = std::ranges::find(types, name, &TypeInfo::name);
    return found == types.end() ? nullptr : *found;
}

std::string list_options(const TypeInfo& type) {
    if (type.options.empty()) return "none";
    std::string list;
    for (const OptionInfo& option : type.options) {
        list += list.empty() ? "" : ", ";
        list += option.key;
        if (!option.value.empty()) list += fmt::format("={}", option.value);
    }
    return list;
}

Parsed<Spec> parse_spec(std::string_view text, const Grammar& grammar) {
    Parser parser(text, grammar);
    return parser.ended_with(parser.backend());
}

Parsed<std::vector<Spec>> parse_layers(std::string_view text, const Grammar& grammar) {
    Parser parser(text, grammar);
    return parser.ended_with(parser.layers());
}

std::string format_spec(const Spec& spec) { return format_nested(spec, false); }

void make_paths_absolute(Spec& spec, std::string_view directory) {
    if (!spec.path.empty() && !spec.path.starts_with('/')) {
        spec.path = fmt::format("{}/{}", directory == "/" ? "" : directory, spec.path);
    }
    spec.uri = uri_with_whole_paths(spec.uri, directory);
    for (Spec& member : spec.members) make_paths_absolute(member, directory);
    for (Spec& layer : spec.layers) make_paths_absolute(layer, directory);
}

bool has_relative_path(const Spec& spec) {
    return (!spec.path.empty() && !spec.path.starts_with('/')) ||
           uri_with_whole_paths(spec.uri, "/") != spec.uri ||
           std::ranges::any_of(spec.members, has_relative_path) ||
           std::ranges::any_of(spec.layers, has_relative_path);
}

Spec spec_to_reopen(Spec spec, const Grammar& grammar) {
    const auto drop_makers = [](Spec& one, std::span<const TypeInfo* const> types) {
        const TypeInfo* type = find_type(types, one.type);
        if (type == nullptr) return;
        std::erase_if(one.options, [&](const SpecOption& option) {
            const auto known = std::ranges::find(type->options, option.key, &OptionInfo::key);
            return known != type->options.end() && known->makes;
        });
    };
    drop_makers(spec, grammar.backends);
    for (Spec& member : spec.members) member = spec_to_reopen(std::move(member), grammar);
    for (Spec& layer : spec.layers) drop_makers(layer, grammar.layers);
    return spec;
}

}  // namespace ashlar::cli
