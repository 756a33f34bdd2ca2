// ashlar nbd list: what an NBD server offers.
#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <ashlar/nbd.h>

#include "base/units.h"
#include "cli/command.h"
#include "cli/json_text.h"

namespace ashlar::cli {
namespace {

struct NbdListOptions {
    std::string uri;
    unsigned timeout = 30;  // seconds
    bool json = false;
};

void print_json(const std::vector<NbdExport>& exports) {
    auto array = nlohmann::ordered_json::array();
    for (const NbdExport& one : exports) {
        array.push_back({{"name", one.name},
                         {"size_bytes", one.size},
                         {"read_only", one.read_only},
                         {"description", one.description}});
    }
    fmt::print("{}\n", json_text(array, 2));
}

// What a server says is not to move the terminal's cursor.
std::string printable(std::string text) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    return text;
}

void print_table(const std::vector<NbdExport>& exports) {
    std::size_t width = 9;
    for (const NbdExport& one : exports) width = std::max(width, one.name.size());
    fmt::print("{:<{}} {:>10} {:<10} {}\n", "EXPORT", width, "SIZE", "ACCESS", "DESCRIPTION");
    for (const NbdExport& one : exports) {
        fmt::print("{:<{}} {:>10} {:<10} {}\n",
                   one.name.empty() ? "(default)" : printable(one.name), width,
                   format_size(one.size), one.read_only ? "read-only" : "read-write",
                   printable(one.description));
    }
}

int list_exports(const NbdListOptions& options) {
    const auto exports = list_nbd_exports(options.uri, std::chrono::seconds(options.timeout));
    if (!exports) return fail(exports.error());
    options.json ? print_json(*exports) : print_table(*exports);
    return kSuccess;
}

}  // namespace

void nbd_command(CLI::App& app, Action& action) {
    CLI::App& nbd = *app.add_subcommand("nbd", "Look at NBD servers");
    nbd.require_subcommand(1);
    CLI::App& list = *nbd.add_subcommand("list", "Show the exports that a server offers");
    auto options = std::make_shared<NbdListOptions>();
    list.add_option("uri", options->uri, "The server: nbd://HOST[:PORT], nbd+unix:///?socket=PATH")
        ->type_name("URI")
        ->required();
    list.add_option("--timeout", options->timeout, "How long it may take to answer; default: 30")
        ->type_name("SECONDS")
        ->check(CLI::Range(1, 86'400));
    list.add_flag("--json", options->json, "Print a JSON array");
    nbd.footer("Example:\n  ashlar nbd list nbd://storage.example");
    list.footer("Example:\n  ashlar nbd list nbd://storage.example");
    list.callback([options, &action] { action = [options] { return list_exports(*options); }; });
}

}  // namespace ashlar::cli
