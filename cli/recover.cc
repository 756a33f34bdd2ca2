// ashlar recover: a new server for a device that has none.
#include <fmt/format.h>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/held.h"
#include "cli/in_use.h"
#include "cli/json_text.h"
#include "cli/launch.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

struct RecoverOptions {
    std::vector<std::string> devices;
    std::string log_file;
    bool all = false;
    bool json = false;
    bool locked = false;      // by who started this
    bool unattended = false;  // by a supervisor: what is paused or served stays as it is
};

Result<Log> open_log(const std::string& path) {
    return path.empty() ? Log::to_syslog() : Log::to_file(path);
}

int refuse(DeviceId id, const std::string& why) {
    complain(fmt::format("recover ublk{}: {}", id, why));
    return kFailure;
}

int print_device(Control& control, DeviceId id, bool as_json) {
    if (!as_json) {
        fmt::print("/dev/ublkb{}\n", id);
        return kSuccess;
    }
    auto info = control.info(id);
    if (!info) return fail(info.error());
    auto report = report_device(control, *info);
    if (!report) return fail(report.error());
    fmt::print("{}\n", json_text(to_json(*report)));
    return kSuccess;
}

int recover_device(Control& control, DeviceId id, const RecoverOptions& options) {
    const Fd lock = options.locked ? Fd() : lock_server(id);
    const auto info = control.info(id);
    if (!info) return fail(info.error());
    const auto state = read_state(id, info->identity);
    if (!state) {
        if (state_directory().empty()) return fail(no_state_directory());
        return refuse(id, fmt::format("it has no state file in {}, so its backend is not known; "
                                      "remove it with 'ashlar del'",
                                      state_directory()));
    }
    const bool served = is_alive(state->pid) && info->state == DeviceState::live;
    if (options.unattended && (served || state->paused)) return kSuccess;
    if (served) {
        return refuse(id, fmt::format("its server, process {}, is alive; stop that one first, or "
                                      "use 'ashlar upgrade'",
                                      state->pid));
    }
    // It is made anew in its place, which waits for them.
    if (info->state == DeviceState::dead) {
        if (const auto user = who_has_open(id)) {
            return refuse(id,
                          fmt::format("it was stopped, and {} still has it open; close it there, "
                                      "then try again",
                                      *user));
        }
    }
    auto job = job_from_state(*state);
    if (!job) return refuse(id, job.error());
    if (has_memory_of_its_own(job->spec)) {
        return refuse(id, "its bytes were in its server's memory, and are gone with it");
    }
    if (!is_alive(job->supervisor, job->supervisor_start)) job->supervisor = 0;
    if (!options.log_file.empty()) job->log_file = options.log_file;
    auto log = open_log(job->log_file);
    if (!log) return fail(log.error());
    const auto launched = launch(*job, *log, false);
    if (!launched) {
        complain(launched.error());
        return kFailure;
    }
    return print_device(control, id, options.json);
}

// Devices of ours whose server is gone, and which nobody paused.
Result<std::vector<DeviceId>> lost_devices(Control& control) {
    auto devices = control.list();
    if (!devices) return std::unexpected(devices.error());
    std::vector<DeviceId> lost;
    for (const DeviceInfo& info : *devices) {
        const auto state = read_state(info.id, info.identity);
        if (!state || state->paused) continue;
        if (info.state != DeviceState::live || !is_alive(state->pid)) lost.push_back(info.id);
    }
    return lost;
}

int recover_devices(const RecoverOptions& options) {
    std::vector<DeviceId> ids;
    for (const std::string& text : options.devices) {
        const auto id = named_device(text);
        if (!id) return kUsage;
        ids.push_back(*id);
    }
    if (options.all == !ids.empty()) {
        complain(options.all ? "name devices or use --all, not both; see 'ashlar recover --help'"
                             : "which device? name it, or use --all; see 'ashlar recover --help'");
        return kUsage;
    }
    auto control = Control::open();
    if (!control) return fail(control.error());
    if (options.all) {
        auto lost = lost_devices(*control);
        if (!lost) return fail(lost.error());
        ids = std::move(*lost);
    }
    int status = kSuccess;
    Progress progress("recovering devices", ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        progress.at(i);
        if (recover_device(*control, ids[i], options) != kSuccess) status = kFailure;
    }
    return status;
}

}  // namespace

void recover_command(CLI::App& app, Action& action) {
    CLI::App& recover =
        *app.add_subcommand("recover", "Give devices a server again that have none");
    auto options = std::make_shared<RecoverOptions>();
    recover.add_option("devices", options->devices, "Their numbers or paths")->type_name("N");
    recover.add_flag("--all", options->all,
                     "Every device whose server has ended without wanting to");
    recover.add_option("--log", options->log_file, "Append messages to FILE; default: as before")
        ->type_name("FILE");
    recover.add_flag("--json", options->json, "Print one JSON object for each");
    recover.add_flag("--locked", options->locked)->group("");
    recover.add_flag("--unattended", options->unattended)->group("");
    recover.footer(
        "Examples:\n"
        "  ashlar recover 0\n"
        "  ashlar recover --all");
    recover.callback(
        [options, &action] { action = [options] { return recover_devices(*options); }; });
}

}  // namespace ashlar::cli
