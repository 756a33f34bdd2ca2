// ashlar generate: man pages and completions, for whoever packages the command. Not shown in help.
#include <fmt/format.h>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>

#include "cli/command.h"
#include "cli/pages.h"

namespace ashlar::cli {
namespace {

struct GenerateOptions {
    std::string directory;
    std::string prose;
    std::string date;
};

int write_page(const std::string& path, const std::string& text) {
    std::ofstream out(path);
    out << text;
    out.close();
    if (out) return kSuccess;
    complain("cannot write " + path);
    return kFailure;
}

int generate(const CLI::App& app, const GenerateOptions& options) {
    std::error_code none;
    std::filesystem::create_directories(options.directory, none);
    auto pages = man_pages(app, options.prose, options.date);
    pages.push_back({.file = "ashlar.bash", .text = bash_completion(app)});
    pages.push_back({.file = "_ashlar", .text = zsh_completion(app)});
    pages.push_back({.file = "ashlar.fish", .text = fish_completion(app)});
    for (const Page& page : pages) {
        if (write_page(options.directory + "/" + page.file, page.text) != kSuccess) {
            return kFailure;
        }
    }
    return kSuccess;
}

}  // namespace

void generate_command(CLI::App& app, Action& action) {
    CLI::App& command = *app.add_subcommand("generate", "Write man pages and completions");
    command.group("");
    auto options = std::make_shared<GenerateOptions>();
    command.add_option("directory", options->directory, "Where they go")->required();
    command.add_option("--prose", options->prose, "What pages say besides")->required();
    command.add_option("--date", options->date, "Of the pages, as 2026-11-23")->required();
    command.callback(
        [&app, options, &action] { action = [&app, options] { return generate(app, *options); }; });
}

}  // namespace ashlar::cli
