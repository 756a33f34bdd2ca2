// The command: parses, runs one action, answers its exit status.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <exception>

#include "cli/command.h"
#include "cli/progress.h"

namespace ashlar::cli {

void complain(std::string_view message) {
    Progress::make_room();
    // When stderr takes nothing there is nobody to tell.
    const std::string line = fmt::format("ashlar: {}\n", message);
    static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
}

int fail(const Error& error) {
    complain(error.message());
    return kFailure;
}

std::optional<DeviceId> parse_device(std::string_view text) {
    if (text.starts_with("/dev/")) text.remove_prefix(5);
    if (text.starts_with("ublkb") || text.starts_with("ublkc")) text.remove_prefix(5);
    DeviceId id = 0;
    const auto parsed = std::from_chars(text.begin(), text.end(), id);
    if (parsed.ec != std::errc{} || parsed.ptr != text.end()) return std::nullopt;
    return id;
}

std::optional<DeviceId> named_device(std::string_view text) {
    const auto id = parse_device(text);
    if (!id) {
        complain(fmt::format(
            "'{}' is no device; write its number or path, such as 0 or /dev/ublkb0", text));
    }
    return id;
}

namespace {

// The deepest subcommand that was named, and how it is called.
struct Named {
    const CLI::App* app;
    std::string path;
};
Named deepest(const CLI::App& app) {
    Named named{&app, app.get_name()};
    while (!named.app->get_subcommands().empty()) {
        named.app = named.app->get_subcommands().front();
        named.path += " " + named.app->get_name();
    }
    return named;
}

// CLI11 says that a subcommand is missing; people want to know which word was wrong.
std::string explain(const CLI::ParseError& error, const CLI::App& app) {
    const auto known = app.get_subcommands([](const CLI::App*) { return true; });
    const auto words = app.remaining(true);
    if (known.empty() || words.empty()) return error.what();
    std::string names;
    for (const CLI::App* command : known) {
        names += (names.empty() ? "" : ", ") + command->get_name();
    }
    return fmt::format("'{}' is unknown here; known are {}", words.front(), names);
}

std::string one_line(std::string text) {
    for (char& c : text) {
        if (c == '\n') c = ' ';
    }
    while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
    return text;
}

// A caller may have closed stdin, stdout or stderr: the next file opened would take its number, and
// what is printed would go there.
void fill_standard_descriptors() {
    int fd = 0;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

// What `ashlar --help` shows together.
void put_in_groups(CLI::App& app) {
    const auto put = [&](const char* group, std::initializer_list<const char*> names) {
        for (const char* name : names) app.get_subcommand(name)->group(group);
    };
    put("Devices", {"add", "serve", "list", "show", "del"});
    put("While they run", {"stats", "top", "export", "resize", "set"});
    put("Their servers", {"recover", "upgrade", "quiesce", "stop"});
    put("This machine", {"features", "doctor"});
    put("Tools", {"nbd", "replay"});
}

int run(int argc, char** argv) {
    fill_standard_descriptors();
    CLI::App app("Linux block devices in userspace", "ashlar");
    app.set_version_flag("--version,-V", "ashlar " ASHLAR_VERSION);
    app.require_subcommand(1);
    Action action;
    add_command(app, action);
    list_command(app, action);
    show_command(app, action);
    stats_command(app, action);
    top_command(app, action);
    export_command(app, action);
    del_command(app, action);
    resize_command(app, action);
    set_command(app, action);
    recover_command(app, action);
    upgrade_command(app, action);
    quiesce_command(app, action);
    stop_command(app, action);
    features_command(app, action);
    doctor_command(app, action);
    replay_command(app, action);
    nbd_command(app, action);
    serve_command(app, action);
    generate_command(app, action);
    udev_owner_command(app, action);
    put_in_groups(app);
    app.footer(
        "Examples:\n"
        "  ashlar add mem --size 1G       a disk in memory; prints /dev/ublkb0\n"
        "  ashlar list                    what exists\n"
        "  ashlar del 0                   take it away\n"
        "  ashlar doctor                  whether ublk works here, and what to do if not\n"
        "\nExit status: 0 success, 1 failure, 2 usage.");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
        const Named named = deepest(app);
        complain(
            fmt::format("{}; see '{} --help'", one_line(explain(error, *named.app)), named.path));
        return kUsage;
    }
    const int status = action();
    // Output that did not get out (a full disk, a closed pipe) is a failure too.
    if (std::fflush(stdout) != 0) {
        complain("cannot write the output");
        return kFailure;
    }
    return status;
}

}  // namespace
}  // namespace ashlar::cli

int main(int argc, char** argv) {
    try {
        return ashlar::cli::run(argc, argv);
    } catch (const std::exception& error) {
        ashlar::cli::complain(error.what());
        return ashlar::cli::kFailure;
    }
}
