#include "cli/serve_file.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

// The only place that sees it: its parser is compiled here.
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "cli/backend_table.h"
#include "cli/device_spec.h"

namespace ashlar::cli {
namespace {

constexpr unsigned kThreadsMost = 1024;
constexpr std::size_t kFileMost = 16 << 20;

std::size_t line_of(const toml::node& node) { return node.source().begin.line; }

// Keeps the first complaint.
class FileReader {
public:
    explicit FileReader(const std::string& path) : path_(path) {}

    ServeFile read(const toml::table& root) {
        ServeFile file{.path = path_, .log = "stderr"};
        for (const auto& [key, node] : root) {
            const std::string_view word = key.str();
            if (word == "server") {
                read_server(node, file);
            } else if (word == "device") {
                read_devices(node, file);
            } else {
                refuse(
                    line_of(node),
                    fmt::format("'{}' is unknown; allowed are [server] and [device.NAME]", word));
            }
        }
        if (file.devices.empty()) refuse(1, "no device is declared; write [device.NAME]");
        std::ranges::sort(file.devices, {}, &Declaration::line);
        check_unique(file);
        return file;
    }

    [[nodiscard]] const std::optional<std::string>& complaint() const { return complaint_; }
    void refuse(std::size_t line, const std::string& sentence) {
        if (!complaint_) complaint_ = fmt::format("{}:{}: {}", path_, line, sentence);
    }

private:
    [[nodiscard]] std::string directory() const {
        return std::filesystem::path(path_).parent_path().native();
    }

    // ---- [server] ------------------------------------------------------------------------------

    void read_server(const toml::node& node, ServeFile& file) {
        const toml::table* table = node.as_table();
        if (table == nullptr) return refuse(line_of(node), "server is a table; write [server]");
        for (const auto& [key, value] : *table) {
            const std::string_view word = key.str();
            if (word == "threads") {
                file.threads = static_cast<unsigned>(number(word, value, 1, kThreadsMost));
            } else if (word == "nice") {
                file.nice = static_cast<int>(number(word, value, -20, 19));
            } else if (word == "log") {
                file.log = text(word, value, "\"stderr\", \"syslog\" or the path of a file");
                if (file.log != "stderr" && file.log != "syslog" && !file.log.starts_with('/')) {
                    file.log = directory() + "/" + file.log;
                }
            } else if (word == "force") {
                file.force = flag(word, value);
            } else {
                refuse(line_of(value), fmt::format("'{}' is no word of [server]; allowed are "
                                                   "threads, nice, log, force",
                                                   word));
            }
        }
    }

    std::int64_t number(std::string_view word, const toml::node& value, std::int64_t least,
                        std::int64_t most) {
        const auto given = value.value_exact<std::int64_t>();
        if (given && *given >= least && *given <= most) return *given;
        refuse(line_of(value), fmt::format("{} is a number, {} to {}", word, least, most));
        return least;
    }
    bool flag(std::string_view word, const toml::node& value) {
        const auto given = value.value_exact<bool>();
        if (!given) refuse(line_of(value), fmt::format("{} is true or false", word));
        return given.value_or(false);
    }
    std::string text(std::string_view word, const toml::node& value, std::string_view allowed) {
        const auto given = value.value_exact<std::string>();
        if (!given || given->empty()) {
            refuse(line_of(value), fmt::format("{} is {}", word, allowed));
        } else if (given->find('\0') != std::string::npos) {
            refuse(line_of(value), fmt::format("{} holds a byte of value zero", word));
        }
        return given.value_or("");
    }
    std::vector<std::string> texts(std::string_view word, const toml::node& value,
                                   std::string_view allowed) {
        std::vector<std::string> all;
        const toml::array* array = value.as_array();
        if (array == nullptr || array->empty()) {
            refuse(line_of(value), fmt::format("{} is a list of {}", word, allowed));
            return all;
        }
        for (const toml::node& each : *array) all.push_back(text(word, each, allowed));
        return all;
    }

    // ---- [device.NAME] and [[device]] ----------------------------------------------------------

    void read_devices(const toml::node& node, ServeFile& file) {
        if (const toml::table* named = node.as_table()) {
            for (const auto& [key, value] : *named) {
                const toml::table* table = value.as_table();
                if (table == nullptr) {
                    refuse(line_of(value), fmt::format("'{}' stands outside of a device; write "
                                                       "[device.NAME] or [[device]] above it",
                                                       key.str()));
                    return;
                }
                read_device(std::string(key.str()), *table, file);
            }
            return;
        }
        const toml::array* list = node.as_array();
        if (list == nullptr) {
            return refuse(line_of(node), "device is a table; write [device.NAME] or [[device]]");
        }
        for (const toml::node& each : *list) {
            if (const toml::table* table = each.as_table()) {
                read_device(name_in(*table), *table, file);
            } else {
                refuse(line_of(each), "device is a table; write [[device]]");
            }
        }
    }

    std::string name_in(const toml::table& table) {
        if (const toml::node* name = table.get("name")) return text("name", *name, "text");
        refuse(line_of(table), "the device has no name; write name = \"NAME\"");
        return {};
    }

    void read_device(const std::string& name, const toml::table& table, ServeFile& file) {
        const std::string who = fmt::format("device '{}': ", name);
        const toml::node* type_node = table.get("type");
        const Grammar known = grammar();
        const std::string type_name =
            type_node != nullptr ? text("type", *type_node, "a word") : std::string();
        const TypeInfo* type = find_type(known.backends, type_name);
        if (type == nullptr) {
            std::string names;
            for (const TypeInfo* one : known.backends) {
                names += fmt::format("{}{}", names.empty() ? "" : ", ", one->name);
            }
            return refuse(
                type_node != nullptr ? line_of(*type_node) : line_of(table),
                type_node == nullptr
                    ? fmt::format("{}its type is missing; known are {}", who, names)
                    : fmt::format("{}'{}' is no type; known are {}", who, type_name, names));
        }
        Declaration declared{.name = name, .line = line_of(table), .job = {}};
        declared.job.spec.type = type_name;
        Spec device;
        for (const auto& [key, value] : table) {
            read_word(who, *type, std::string(key.str()), value, declared.job.spec, device);
            if (complaint_) return;
        }
        check_argument(who, *type, declared);
        finish(who, table, device, declared);
        file.devices.push_back(std::move(declared));
    }

    // One word of a device: of all devices, of its type, or of both ("read-only").
    void read_word(const std::string& who, const TypeInfo& type, const std::string& key,
                   const toml::node& value, Spec& spec, Spec& device) {
        if (key == "type" || key == "name") return;
        if (key == "path" && type.argument == Argument::path) {
            spec.path = text(key, value, "text");
        } else if (key == "uri" && type.argument == Argument::uri) {
            spec.uri = text(key, value, "text");
        } else if (key == "command" && type.argument == Argument::uri) {
            spec.command = texts(key, value, "words: a program and its arguments");
        } else if (key == "members" && type.argument == Argument::members) {
            for (const std::string& one : texts(key, value, "specs, such as \"file:/data/a\"")) {
                auto member = parse_spec(one, grammar());
                if (!member) return refuse(line_of(value), who + "members: " + member.error());
                spec.members.push_back(std::move(*member));
            }
        } else if (key == "layers") {
            for (const std::string& one : texts(key, value, "specs, such as \"delay:read=1ms\"")) {
                auto layers = parse_layers(one, grammar());
                if (!layers) return refuse(line_of(value), who + "layers: " + layers.error());
                std::ranges::move(*layers, std::back_inserter(spec.layers));
            }
        } else {
            read_option(who, type, key, value, spec, device);
        }
    }

    void read_option(const std::string& who, const TypeInfo& type, const std::string& key,
                     const toml::node& value, Spec& spec, Spec& device) {
        const auto of_type = std::ranges::find(type.options, key, &OptionInfo::key);
        const auto infos = device_option_infos();
        const auto of_device = std::ranges::find(infos, key, &OptionInfo::key);
        const bool is_types = of_type != type.options.end();
        if (!is_types && of_device == infos.end()) {
            return refuse(line_of(value),
                          fmt::format("{}'{}' is no word of type {}; allowed are {}", who, key,
                                      type.name, list_words(type)));
        }
        const OptionInfo& info = is_types ? *of_type : *of_device;
        SpecOption option{.key = key};
        if (info.value.empty()) {
            if (!flag(who + key, value)) return;
        } else if (const auto whole = value.value_exact<std::int64_t>()) {
            option.value = std::to_string(*whole);
        } else {
            option.value =
                text(who + key, value, fmt::format("text or a whole number: {}", info.value));
        }
        (is_types ? spec : device).options.push_back(std::move(option));
    }

    static std::string list_words(const TypeInfo& type) {
        std::string words = "type";
        if (type.argument == Argument::path) words += ", path";
        if (type.argument == Argument::uri) words += ", uri, command";
        if (type.argument == Argument::members) words += ", members";
        words += ", layers";
        for (const auto& options : {type.options, device_option_infos()}) {
            for (const OptionInfo& one : options) words += fmt::format(", {}", one.key);
        }
        return words;
    }

    void check_argument(const std::string& who, const TypeInfo& type, const Declaration& declared) {
        const Spec& spec = declared.job.spec;
        const auto needs = [&](std::string_view what) {
            refuse(declared.line, fmt::format("{}type {} needs {}", who, type.name, what));
        };
        if (type.argument == Argument::path && spec.path.empty()) needs("path = \"PATH\"");
        if (type.argument == Argument::uri && spec.uri.empty() == spec.command.empty()) {
            needs("uri = \"URI\" or command = [\"PROGRAM\", ...], one of them");
        }
        if (type.argument == Argument::members && spec.members.empty()) {
            needs("members = [\"SPEC\", \"SPEC\"]");
        }
        for (const OptionInfo& option : type.options) {
            if (!option.required) continue;
            const bool given =
                std::ranges::find(spec.options, option.key, &SpecOption::key) != spec.options.end();
            if (!given) needs(fmt::format("{} = \"{}\"", option.key, option.value));
        }
    }

    // What the values say, and whether it can be.
    void finish(const std::string& who, const toml::table& table, const Spec& device,
                Declaration& declared) {
        ServerJob& job = declared.job;
        make_paths_absolute(job.spec, directory());
        auto options = read_device_options(device, "");
        if (!options) return refuse(line_of_word(table, options.error()), who + options.error());
        auto open = prepare(job.spec, Written::as_keys);
        if (!open) return refuse(line_of_word(table, open.error()), who + open.error());
        job.device = *options;
        job.options = device.options;
        job.open_backend = std::move(*open);
        job.declared_in = path_;
        job.declared_as = declared.name;
        job.shared = true;
        const auto recovery = line_of_word(table, "recovery");
        if (job.device.recovery == Recovery::none) return;
        if (has_memory_of_its_own(job.spec)) {
            refuse(recovery, who +
                                 "a disk in memory goes with its server, so there is nothing to "
                                 "recover; add memory-file, or leave recovery");
        } else if (has_program_of_its_own(job.spec)) {
            refuse(recovery, who +
                                 "the program that serves the disk ends with this server, so "
                                 "there is nothing to recover; leave recovery");
        }
    }

    // The word that a sentence begins with, or the device.
    static std::size_t line_of_word(const toml::table& table, std::string_view sentence) {
        const toml::node* node = table.get(sentence.substr(0, sentence.find_first_of(" :")));
        return line_of(node != nullptr ? *node : table);
    }

    void check_unique(const ServeFile& file) {
        std::set<std::string> names;
        std::set<DeviceId> ids;
        for (const Declaration& one : file.devices) {
            if (!names.insert(one.name).second) {
                refuse(one.line, fmt::format("device '{}' is declared twice; give each a name of "
                                             "its own",
                                             one.name));
            }
            if (one.job.device.id && !ids.insert(*one.job.device.id).second) {
                refuse(one.line, fmt::format("device '{}': id {} is another device's too; give "
                                             "each its own, or leave it",
                                             one.name, *one.job.device.id));
            }
        }
    }

    const std::string path_;
    std::optional<std::string> complaint_;
};

}  // namespace

Parsed<ServeFile> parse_serve_file(std::string_view text, const std::string& path) {
    const toml::parse_result parsed = toml::parse(text, path);
    FileReader reader(path);
    if (!parsed) {
        reader.refuse(parsed.error().source().begin.line,
                      fmt::format("not TOML: {}", parsed.error().description()));
        return std::unexpected(*reader.complaint());
    }
    ServeFile file = reader.read(parsed.table());
    if (reader.complaint()) return std::unexpected(*reader.complaint());
    return file;
}

Parsed<ServeFile> read_serve_file(const std::string& path) {
    std::error_code failed;
    const std::string whole = std::filesystem::absolute(path, failed).lexically_normal().native();
    const auto refuse = [&](std::string_view why) {
        return std::unexpected(fmt::format("{}: {}", path, why));
    };
    if (failed) return refuse(failed.message());
    std::ifstream stream(whole, std::ios::binary);
    if (!stream) return refuse(std::strerror(errno));
    std::string text(kFileMost + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(stream.gcount()));
    if (stream.bad() || (text.empty() && !std::filesystem::is_regular_file(whole, failed))) {
        return refuse("it cannot be read; name a TOML file");
    }
    if (text.size() > kFileMost) return refuse("it is larger than 16 MiB");
    return parse_serve_file(text, whole);
}

std::string list_changes(const Declaration& before, const Declaration& now) {
    std::set<std::string> changed;
    const auto compare = [&](std::vector<SpecOption> one, std::vector<SpecOption> other) {
        for (const auto& [here, there] : {std::pair(&one, &other), std::pair(&other, &one)}) {
            for (const SpecOption& option : *here) {
                if (std::ranges::find(*there, option) == there->end()) changed.insert(option.key);
            }
        }
    };
    const Spec& was = before.job.spec;
    const Spec& is = now.job.spec;
    if (was.type != is.type) changed.insert("type");
    if (was.path != is.path) changed.insert("path");
    if (was.uri != is.uri) changed.insert("uri");
    if (was.command != is.command) changed.insert("command");
    if (was.members != is.members) changed.insert("members");
    if (was.layers != is.layers) changed.insert("layers");
    compare(was.options, is.options);
    compare(before.job.options, now.job.options);
    std::string words;
    for (const std::string& word : changed) words += (words.empty() ? "" : ", ") + word;
    return words;
}

}  // namespace ashlar::cli
