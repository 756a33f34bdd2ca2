// ashlar add TYPE: starts a server and returns when its block device is usable.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>

#include "base/fd.h"
#include "cli/backend_table.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/device_spec.h"
#include "cli/held.h"
#include "cli/json_text.h"
#include "cli/launch.h"
#include "cli/server.h"

namespace ashlar::cli {
namespace {

// What the command line said.
struct AddOptions {
    Spec backend;                      // its type and own options
    std::vector<std::string> words;    // a URI, or a program and its arguments
    std::vector<std::string> members;  // specs
    std::vector<std::string> layers;   // specs
    std::string metadata;              // what follows "metadata:" in a spec
    Spec device;                       // options only
    std::string log_file;
    bool foreground = false;
    bool supervise = false;
    bool json = false;
};

// The whole backend, with members and layers, by paths that hold in any directory.
Parsed<Spec> read_backend(const AddOptions& options) {
    Spec spec = options.backend;
    const bool is_uri =
        options.words.size() == 1 && options.words[0].find("://") != std::string::npos;
    if (is_uri) {
        spec.uri = options.words[0];
    } else {
        spec.command = options.words;
    }
    for (const std::string& text : options.members) {
        auto member = parse_spec(text, grammar());
        if (!member) return member;
        spec.members.push_back(std::move(*member));
    }
    for (const std::string& text : options.layers) {
        auto layers = parse_layers(text, grammar());
        if (!layers) return std::unexpected("--layer: " + layers.error());
        std::ranges::move(*layers, std::back_inserter(spec.layers));
    }
    if (!options.metadata.empty()) {
        auto layer = parse_layers("metadata:" + options.metadata, grammar());
        if (!layer) return std::unexpected("--metadata: " + layer.error());
        std::ranges::move(*layer, std::back_inserter(spec.layers));
    }
    std::error_code gone;
    const auto directory = std::filesystem::current_path(gone);
    if (gone && has_relative_path(spec)) {
        return std::unexpected(
            "the current directory is gone; change to another, or write whole paths");
    }
    make_paths_absolute(spec, directory.native());
    return spec;
}

// Recovery is of use only if there is something to come back to, and supervision if there is
// something to do.
Parsed<void> check_recovery(const AddOptions& options, const Spec& spec, Recovery recovery) {
    if (options.supervise && options.foreground) {
        return std::unexpected("--supervise keeps a server in the background; leave --foreground");
    }
    if (options.supervise && recovery == Recovery::none) {
        return std::unexpected("--supervise needs --recovery queue, reissue or fail");
    }
    if (options.foreground && recovery != Recovery::none && has_program_of_its_own(spec)) {
        return std::unexpected(
            "the program that serves the disk ends with this process, so there is nothing to "
            "recover; leave --foreground or --recovery");
    }
    if (recovery != Recovery::none && !options.supervise && has_memory_of_its_own(spec)) {
        return std::unexpected(
            "a disk in memory goes with its server, so there is nothing to recover; add "
            "--supervise, which holds the memory, or --memory-file");
    }
    return {};
}

// Everything that can be told to be wrong before anything is opened.
Parsed<ServerJob> read_job(const AddOptions& options) {
    auto device = read_device_options(options.device);
    if (!device) return std::unexpected(device.error());
    auto spec = read_backend(options);
    if (!spec) return std::unexpected(spec.error());
    auto open = prepare(*spec, Written::as_options);
    if (!open) return std::unexpected(open.error());
    if (auto sound = check_recovery(options, *spec, device->recovery); !sound) {
        return std::unexpected(sound.error());
    }
    std::error_code none;
    return ServerJob{.spec = std::move(*spec),
                     .open_backend = std::move(*open),
                     .device = *device,
                     .options = options.device.options,
                     .log_file = options.log_file.empty()
                                     ? std::string()
                                     : std::filesystem::absolute(options.log_file, none).string()};
}

int print_device(DeviceId id, const DeviceOptions& asked, bool as_json) {
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto info = control->info(id);
    if (!info) return fail(info.error());
    if (info->queues != asked.queues) {
        const bool one_per_cpu = info->queues >= sysconf(_SC_NPROCESSORS_ONLN);
        complain(fmt::format(
            "note: {} queues instead of {}: {}", info->queues, asked.queues,
            one_per_cpu ? "the kernel uses at most one per CPU" : "the backend takes no more"));
    }
    if (!as_json) {
        fmt::print("/dev/ublkb{}\n", id);
        return kSuccess;
    }
    auto report = report_device(*control, *info);
    if (!report) return fail(report.error());
    fmt::print("{}\n", json_text(to_json(*report)));
    return kSuccess;
}

Result<Log> open_log(const AddOptions& options) {
    if (!options.log_file.empty()) return Log::to_file(options.log_file);
    return options.foreground ? Log::to_stderr() : Log::to_syslog();
}

int run_add(const AddOptions& options) {
    auto read = read_job(options);
    if (!read) {
        complain(read.error());
        return kUsage;
    }
    ServerJob& job = *read;
    auto log = open_log(options);
    if (!log) return fail(log.error());
    if (options.foreground) {
        Held held;
        if (auto started = held.start_programs(job); !started) return fail(started.error());
        held.follow(*log);
        const bool log_shows_errors = options.log_file.empty();
        const auto ready = [&](const Result<DeviceId>& result) {
            if (result) {
                const bool printed = print_device(*result, job.device, options.json) == kSuccess;
                return std::fflush(stdout) == 0 && printed;
            }
            if (!log_shows_errors) complain(result.error().message());
            return true;
        };
        return run_server(job, *log, ready);
    }
    const auto id = launch(job, *log, options.supervise);
    if (!id) {
        complain(id.error());
        return kFailure;
    }
    int status = print_device(*id, job.device, options.json);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) status = kFailure;
    if (status != kSuccess) {
        // A device that nobody was told of would stay for ever.
        complain(fmt::format("cannot say which device it is; ublk{} is removed again", *id));
        auto control = Control::open();
        if (control) static_cast<void>(control->remove(*id));
    }
    return status;
}

// Each of the described options, put down in `given` when the command line has it.
void describe(CLI::App& type, std::span<const OptionInfo> infos, Spec& given,
              const std::string& group) {
    for (const OptionInfo& info : infos) {
        const std::string key(info.key);
        const std::string option_name = "--" + key;
        if (type.get_option_no_throw(option_name) != nullptr) continue;  // the backend's own
        const std::string help(info.help);
        CLI::Option* option =
            info.value.empty()
                ? type.add_flag_callback(
                      option_name, [&given, key] { given.options.push_back({.key = key}); }, help)
                : type.add_option_function<std::string>(
                          option_name,
                          [&given, key](const std::string& value) {
                              given.options.push_back({.key = key, .value = value});
                          },
                          help)
                      ->type_name(std::string(info.value));
        option->required(info.required)->group(group);
    }
}

void describe_argument(CLI::App& type, const TypeInfo& info, AddOptions& options) {
    const std::string help(info.argument_help);
    if (info.argument == Argument::path) {
        type.add_option("path", options.backend.path, help)->required()->type_name("PATH");
    }
    if (info.argument == Argument::uri) {
        type.add_option("uri", options.words, help)->required()->type_name("URI");
    }
    if (info.argument == Argument::members) {
        type.add_option("spec", options.members, help)->required()->type_name("SPEC");
    }
}

void describe_command(CLI::App& type, AddOptions& options) {
    const std::string group = "Command";
    type.add_option("--layer", options.layers,
                    "A layer on the backend, such as delay:read=1ms; the first is the nearest to "
                    "it")
        ->type_name("SPEC")
        ->allow_extra_args(false)
        ->group(group);
    type.add_option("--metadata", options.metadata,
                    "The layer metadata:FORMAT, the last: crc16, crc64, ip or bytes=N, with "
                    ",path=FILE (kernel 7.0)")
        ->type_name("FORMAT")
        ->group(group);
    type.add_flag("--foreground", options.foreground,
                  "Serve in this process; Ctrl-C removes the device")
        ->group(group);
    type.add_flag("--supervise", options.supervise,
                  "Bring the device back whenever its server ends; needs --recovery")
        ->group(group);
    type.add_option("--log", options.log_file,
                    "Append messages to FILE; default: syslog, or stderr in the foreground")
        ->type_name("FILE")
        ->group(group);
    type.add_flag("--json", options.json, "Print one JSON object instead of the path")
        ->group(group);
}

// Broken at blanks, each further line indented like the first's text.
std::string wrap(std::string_view head, std::string_view text) {
    constexpr std::size_t columns = 96;
    std::string result(head);
    std::size_t used = head.size();
    while (!text.empty()) {
        const std::size_t blank = std::min(text.find(' '), text.size());
        if (used + 1 + blank > columns) {
            result += "\n" + std::string(head.size(), ' ');
            used = head.size();
        }
        result += " ";
        result += text.substr(0, blank);
        used += 1 + blank;
        text.remove_prefix(std::min(blank + 1, text.size()));
    }
    return result + "\n";
}

std::string list_entries(std::span<const BackendEntry> entries) {
    std::string lines;
    for (const BackendEntry& entry : entries) {
        const TypeInfo& info = entry.info;
        std::string parts;
        if (info.argument == Argument::path) parts = "PATH";
        if (info.argument == Argument::uri) parts = "URI";
        if (info.argument == Argument::members) {
            parts = info.members_most == 1 ? "[SPEC]" : "[SPEC], [SPEC], ...";
        }
        if (!info.options.empty()) parts += (parts.empty() ? "" : ", ") + list_options(info);
        lines += wrap(fmt::format("  {:<7}", info.name), parts);
    }
    return lines;
}

std::string list_examples(const TypeInfo& info) {
    std::string lines;
    for (const std::string_view example : info.examples) {
        lines += fmt::format("\n  ashlar add {}", example);
    }
    return lines;
}

std::string explain_specs() {
    std::string text = fmt::format(
        "The members of stripe and linear are SPECs, backends in one word, TYPE:PART,PART,...\n"
        "Before a comma, a pipe or a backslash in a path stands a backslash.\n{}"
        "A layer changes what lies below it: --layer SPEC, or |SPEC after a member's spec.\n{}"
        "A LATENCY is a time such as 10ms (ns, us, ms or s), uniform/MEAN/SPREAD,\n"
        "normal/MEAN/SPREAD or exponential/MEAN; an OP is read, write, flush, discard or\n"
        "write-zeroes.\n\nExamples:",
        list_entries(backend_entries()), list_entries(layer_entries()));
    for (const auto& entries : {backend_entries(), layer_entries()}) {
        for (const BackendEntry& entry : entries) text += list_examples(entry.info);
    }
    return text;
}

}  // namespace

void add_command(CLI::App& app, Action& action) {
    CLI::App& add = *app.add_subcommand("add", "Make a block device");
    add.require_subcommand(1);
    add.footer(explain_specs());
    for (const BackendEntry& entry : backend_entries()) {
        const TypeInfo& info = entry.info;
        auto options = std::make_shared<AddOptions>();
        options->backend.type = info.name;
        CLI::App& type = *add.add_subcommand(std::string(info.name), std::string(info.help));
        describe_argument(type, info, *options);
        describe(type, info.options, options->backend, "Options");
        describe(type, device_option_infos(), options->device, "Device");
        describe_command(type, *options);
        type.footer("Examples:" + list_examples(info) +
                    "\n\nMore on specs and layers: ashlar add --help");
        type.callback([options, &action] { action = [options] { return run_add(*options); }; });
    }
}

}  // namespace ashlar::cli
