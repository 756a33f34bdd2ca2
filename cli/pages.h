// What the command says of itself, in the forms that others read: man pages and what shells
// complete by. Made from the parsed command, so that they have every option.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::cli {

struct Page {
    std::string file;  // "ashlar-mem.7"
    std::string text;
};

// The manual: ashlar(8), one page for each subcommand, and one of section 7 for each backend and
// for the layers. prose: a directory with a further text, in roff, for pages that have more to say:
// "ashlar-mem.7" and so on. date: "2026-11-23".
[[nodiscard]] std::vector<Page> man_pages(const CLI::App& app, const std::string& prose,
                                          std::string_view date);

// What there is to show of a command: neither goes without a group.
[[nodiscard]] std::vector<const CLI::App*> shown_commands(const CLI::App& app);
[[nodiscard]] std::vector<const CLI::Option*> shown_options(const CLI::App& app);

// What a shell has to be given. Words after an option that takes one of a few values are these;
// where a device is asked for, those that exist.
[[nodiscard]] std::string bash_completion(const CLI::App& app);
[[nodiscard]] std::string zsh_completion(const CLI::App& app);
[[nodiscard]] std::string fish_completion(const CLI::App& app);

}  // namespace ashlar::cli
