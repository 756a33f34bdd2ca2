// ashlar del: takes devices away, and waits until nothing of them is left.
#include <fmt/format.h>
#include <cerrno>
#include <chrono>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "cli/command.h"
#include "cli/in_use.h"
#include "cli/process.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

constexpr auto kLockWait = std::chrono::seconds(10);
constexpr int kServerEndMs = 10'000;
// A program that serves the disk first writes what it still has.
constexpr int kSupervisorEndMs = 70'000;

struct DelOptions {
    std::vector<std::string> devices;
    bool all = false;
    bool force = false;
    bool async = false;
};

// Server and supervisor end by themselves once their device is gone.
int complain_of(DeviceId id, const char* who, std::int32_t process) {
    complain(fmt::format("ublk{} is gone, but its {}, process {}, does not end; type 'kill -9 {}'",
                         id, who, process, process));
    return kFailure;
}

// A removal that did not end in time waits either for the server or for who has the disk open.
Error explain(Error error, const DeviceInfo& info, const Fd& server) {
    if (error.code != ETIMEDOUT) return error;
    if (!await_end(server, 0)) {
        error.detail = fmt::format("its server, process {}, does not let go", info.pid);
        error.hint = fmt::format("type 'kill -9 {}', then try again", info.pid);
    } else if (const auto user = who_has_open(info.id)) {
        error.detail = fmt::format("the disk is gone, but {} still has it open", *user);
        error.hint = "the id is free again when it closes it";
    }
    return error;
}

int del_device(Control& control, DeviceId id, const DelOptions& options) {
    // Whoever brings it back comes to an end first; but nobody keeps it from being removed.
    Fd lock = lock_server(id, kLockWait);
    auto info = control.info(id);
    // What a killed server left is of no use without the device.
    if (!info && info.error().code == ENODEV) remove_state_of_gone(control, id);
    if (!info) return fail(info.error());
    if (!options.force) {
        if (auto user = who_uses(id)) {
            complain(
                fmt::format("/dev/ublkb{} is {}; release it first, or use --force and lose "
                            "what is not yet written",
                            id, *user));
            return kFailure;
        }
    }
    // The driver goes on by itself; the server ends with its device and takes its files along.
    if (options.async) {
        if (auto begun = control.remove_async(id); !begun) return fail(begun.error());
        return kSuccess;
    }
    // Opened before the removal, so that the number cannot mean another process later.
    const auto state = read_state(id, info->identity);
    const Fd server = open_process(info->pid);
    const Fd supervisor = state ? open_process(state->supervisor, state->supervisor_start) : Fd();
    if (auto removed = control.remove(id); !removed && removed.error().code != ENODEV) {
        return fail(explain(removed.error(), *info, server));
    }
    if (!state) return kSuccess;  // another program's server, which may serve more
    if (state->shared) {
        remove_state(id, info->identity);
        return kSuccess;  // so does this one
    }
    if (!await_end(server, kServerEndMs)) return complain_of(id, "server", info->pid);
    remove_state(id, info->identity);
    lock.reset();  // the supervisor looks whether the device is gone, and may wait for it
    if (!await_end(supervisor, kSupervisorEndMs)) {
        return complain_of(id, "supervisor", state->supervisor);
    }
    return kSuccess;
}

// What servers left that were killed, of devices that are gone: also a socket without a state file,
// of one that was killed while it started.
void remove_stale_state(Control& control) {
    for (const DeviceId id : ids_with_state()) {
        // Unless somebody makes the device anew just now.
        const Fd lock = lock_server(id, std::chrono::seconds(0));
        if (lock.valid() || !read_any_state(id)) remove_state_of_gone(control, id);
    }
    remove_stale_sockets();
}

int del_devices(const DelOptions& options) {
    std::vector<DeviceId> ids;
    for (const std::string& text : options.devices) {
        const auto id = named_device(text);
        if (!id) return kUsage;
        ids.push_back(*id);
    }
    if (options.all == !ids.empty()) {
        complain(options.all ? "name devices or use --all, not both; see 'ashlar del --help'"
                             : "which device? name it, or use --all; see 'ashlar del --help'");
        return kUsage;
    }
    auto control = Control::open();
    if (!control) return fail(control.error());
    if (options.all) {
        auto devices = control->list();
        if (!devices) return fail(devices.error());
        for (const DeviceInfo& info : *devices) ids.push_back(info.id);
    }
    int status = kSuccess;
    Progress progress("removing devices", ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        progress.at(i);
        if (del_device(*control, ids[i], options) != kSuccess) status = kFailure;
    }
    if (!options.async) remove_stale_state(*control);
    return status;
}

}  // namespace

void del_command(CLI::App& app, Action& action) {
    CLI::App& del = *app.add_subcommand("del", "Remove devices");
    auto options = std::make_shared<DelOptions>();
    del.add_option("devices", options->devices, "Their numbers or paths")->type_name("N");
    del.add_flag("--all", options->all, "Every ublk device of this machine");
    del.add_flag("--force", options->force,
                 "Even if mounted, used as swap or held by another device");
    del.add_flag("--async", options->async, "Do not wait until they are gone");
    del.footer(
        "Examples:\n"
        "  ashlar del 0\n"
        "  ashlar del --all\n"
        "  ashlar del 0 --force         although it is in use: its users get errors");
    del.callback([options, &action] { action = [options] { return del_devices(*options); }; });
}

}  // namespace ashlar::cli
