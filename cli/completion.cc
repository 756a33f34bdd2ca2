#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>

#include "cli/backend_table.h"
#include "cli/device_spec.h"
#include "cli/pages.h"

namespace ashlar::cli {
namespace {

std::vector<std::string> long_options(const CLI::App& app) {
    std::vector<std::string> names;
    for (const CLI::Option* option : shown_options(app)) {
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    return names;
}

// What may follow one of the options, where that is one of a few words.
std::string choices_of(const std::string& option) {
    for (const OptionInfo& info : device_option_infos()) {
        if ("--" + std::string(info.key) == option) return std::string(info.choices);
    }
    return option == "--log-level" ? "info warning error" : "";
}

bool takes_value(const CLI::App& app, const std::string& name) {
    const CLI::Option* option = app.get_option_no_throw(name);
    return option != nullptr && option->get_items_expected_max() > 0;
}

bool takes_devices(const CLI::App& app) {
    for (const CLI::Option* option : shown_options(app)) {
        if (!option->nonpositional() && option->get_type_name() == "N") return true;
    }
    return false;
}

using Visit = std::function<void(const CLI::App&, const std::string& path)>;
void walk(const CLI::App& app, const std::string& path, const Visit& visit) {
    visit(app, path);
    for (const CLI::App* sub : shown_commands(app)) {
        walk(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), visit);
    }
}

std::vector<std::string> names(const std::vector<const CLI::App*>& apps) {
    std::vector<std::string> result;
    result.reserve(apps.size());
    for (const CLI::App* app : apps) result.push_back(app->get_name());
    return result;
}

constexpr std::string_view kDevices = "ls /sys/block 2>/dev/null | sed -n 's/^ublkb//p'";

// The lines of a `case` by subcommand, for bash and zsh: words to offer, options with a value, and
// whether a device is asked for.
std::string cases(const CLI::App& app) {
    std::string text;
    walk(app, "", [&](const CLI::App& one, const std::string& path) {
        std::vector<std::string> words = names(shown_commands(one));
        std::vector<std::string> valued;
        for (std::string& name : long_options(one)) {
            if (takes_value(one, name)) valued.push_back(name);
            words.push_back(std::move(name));
        }
        text +=
            fmt::format("        \"{}\")\n            words=\"{}\"\n            valued=\" {} \"\n",
                        path, fmt::join(words, " "), fmt::join(valued, " "));
        if (takes_devices(one)) text += "            devices=1\n";
        text += "            ;;\n";
    });
    return text;
}

std::string value_cases() {
    std::string text;
    std::vector<std::string> all{"--log-level"};
    for (const OptionInfo& info : device_option_infos())
        all.push_back("--" + std::string(info.key));
    for (const std::string& option : all) {
        const std::string choices = choices_of(option);
        if (!choices.empty())
            text += fmt::format("        {}) choices=\"{}\" ;;\n", option, choices);
    }
    return text;
}

// What bash and zsh do alike: finds the subcommand that the words before this one name.
std::string shared_functions(const CLI::App& app) {
    return fmt::format(R"sh(_ashlar_known() {{
    words="" valued=" " devices=""
    case "$1" in
{}        *) return 1 ;;
    esac
}}
_ashlar_choices() {{
    choices=""
    case "$1" in
{}    esac
}}
_ashlar_devices() {{
    {}
}}
)sh",
                       cases(app), value_cases(), kDevices);
}

}  // namespace

std::string bash_completion(const CLI::App& app) {
    return "# bash completion of ashlar; made from the command itself\n" + shared_functions(app) +
           R"sh(_ashlar() {
    local words valued devices choices
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} path="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        _ashlar_known "${path:+$path }${COMP_WORDS[i]}" && path="${path:+$path }${COMP_WORDS[i]}"
    done
    _ashlar_known "$path"
    COMPREPLY=()
    if [[ $valued == *" $previous "* ]]; then
        _ashlar_choices "$previous"
        if [[ -n $choices ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
        else
            compopt -o default 2>/dev/null
        fi
        return
    fi
    [[ -z $devices || $current == -* ]] || words+=" $(_ashlar_devices)"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    [[ ${#COMPREPLY[@]} -gt 0 || $current == -* ]] || compopt -o default 2>/dev/null
}
complete -F _ashlar ashlar
)sh";
}

std::string zsh_completion(const CLI::App& app) {
    return "#compdef ashlar\n# zsh completion of ashlar; made from the command itself\n" +
           shared_functions(app) + R"sh(_ashlar() {
    local words_before=("${(@)words[2,CURRENT-1]}") current=$words[CURRENT]
    local previous=$words[CURRENT-1] path_so_far="" word
    local words valued devices choices
    for word in "${words_before[@]}"; do
        _ashlar_known "${path_so_far:+$path_so_far }$word" &&
            path_so_far="${path_so_far:+$path_so_far }$word"
    done
    _ashlar_known "$path_so_far"
    if [[ $valued == *" $previous "* ]]; then
        _ashlar_choices "$previous"
        if [[ -n $choices ]]; then
            compadd -- ${=choices}
        else
            _files
        fi
        return
    fi
    [[ -z $devices || $current == -* ]] || compadd -- ${(f)"$(_ashlar_devices)"}
    compadd -- ${=words}
    [[ $current == -* ]] || _files
}
_ashlar "$@"
)sh";
}

std::string fish_completion(const CLI::App& app) {
    std::string text = "# fish completion of ashlar; made from the command itself\n";
    const auto quoted = [](std::string_view words) {
        std::string result;
        for (const char c : words) {
            if (c == '\'' || c == '\\') result += '\\';
            result += c;
        }
        return "'" + result + "'";
    };
    walk(app, "", [&](const CLI::App& one, const std::string& path) {
        std::string condition;
        std::string_view rest = path;
        while (!rest.empty()) {
            const auto blank = std::min(rest.find(' '), rest.size());
            condition += fmt::format("{}__fish_seen_subcommand_from {}",
                                     condition.empty() ? "" : "; and ", rest.substr(0, blank));
            rest.remove_prefix(std::min(blank + 1, rest.size()));
        }
        const auto subs = names(shown_commands(one));
        if (!subs.empty()) {
            condition += fmt::format("{}not __fish_seen_subcommand_from {}",
                                     condition.empty() ? "" : "; and ", fmt::join(subs, " "));
        }
        const std::string head = fmt::format("complete -c ashlar -n {}", quoted(condition));
        for (const CLI::App* sub : shown_commands(one)) {
            text += fmt::format("{} -f -a {} -d {}\n", head, sub->get_name(),
                                quoted(sub->get_description()));
        }
        for (const CLI::Option* option : shown_options(one)) {
            for (const std::string& name : option->get_lnames()) {
                const bool valued = option->get_items_expected_max() > 0;
                const std::string choices = choices_of("--" + name);
                text += fmt::format("{} -l {}{}{} -d {}\n", head, name, valued ? " -r" : "",
                                    choices.empty() ? "" : " -f -a " + quoted(choices),
                                    quoted(option->get_description()));
            }
        }
        if (takes_devices(one)) {
            text += fmt::format("{} -f -a {}\n", head, quoted(fmt::format("({})", kDevices)));
        }
    });
    return text;
}

}  // namespace ashlar::cli
