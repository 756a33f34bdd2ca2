#include "cli/bring_up.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include <ashlar/control.h>

#include "cli/backend_table.h"
#include "cli/server_state.h"
#include "cli/store_check.h"
#include "cli/udev.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kNodeTimeout = 10s;

Result<Fd> listen_on(const std::string& path) {
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return std::unexpected(Error{.operation = "make a socket", .code = errno});
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        chmod(path.c_str(), 0600) != 0 || listen(fd.get(), 16) != 0) {
        return std::unexpected(Error{.operation = "listen on " + path, .code = errno});
    }
    return fd;
}

// The id is ours now: what lies there under its name is of a device that is gone.
// Of one that is recovered the state file stays until the new one is written.
Result<Fd> claim_socket(DeviceId id, bool is_new) {
    const StateLock lock;
    if (!lock.taken()) return std::unexpected(lock.taken().error());
    if (is_new) remove_orphaned_state(id);
    unlink(socket_path(id).c_str());
    return listen_on(socket_path(id));
}

bool is_block_device(const std::string& path, const DeviceParams& params) {
    struct stat node{};
    return stat(path.c_str(), &node) == 0 && S_ISBLK(node.st_mode) &&
           node.st_rdev == makedev(params.disk_major, params.disk_minor);
}

Error late_node(const std::string& path, const DeviceParams& params) {
    Error error{.operation = "wait for " + path, .code = ETIMEDOUT};
    if (is_block_device(path, params)) {
        error.detail = "it has not become this user's";
        error.hint = "udev's rule for it (60-ashlar.rules) is missing or does not work";
    } else {
        error.detail = "the kernel has the device, but no node appeared";
        error.hint = "is devtmpfs mounted on /dev, or udev running?";
    }
    return error;
}

// The node appears by devtmpfs at once, by udev a moment later; that of an unprivileged device is
// not its user's before udev has made it so. It is not opened: a server that opens its own device
// can wait for itself.
Result<void> await_node(DeviceId id, const std::string& path, bool unprivileged) {
    auto control = Control::open();
    if (!control) return std::unexpected(control.error());
    const auto params = control->params(id);
    if (!params) return std::unexpected(params.error());
    const auto deadline = std::chrono::steady_clock::now() + kNodeTimeout;
    while (!is_block_device(path, *params) ||
           (unprivileged && eaccess(path.c_str(), R_OK | W_OK) != 0)) {
        struct stat other{};
        if (stat(path.c_str(), &other) == 0 && !S_ISBLK(other.st_mode)) {
            return std::unexpected(Error{.operation = "look at " + path,
                                         .code = EEXIST,
                                         .detail = "something else has this name",
                                         .hint = "remove it, then try again"});
        }
        // Somebody may have removed it.
        if (const auto info = control->info(id); !info) return std::unexpected(info.error());
        if (std::chrono::steady_clock::now() >= deadline) {
            return std::unexpected(late_node(path, *params));
        }
        std::this_thread::sleep_for(1ms);
    }
    return {};
}

std::string own_program() {
    std::error_code none;
    return std::filesystem::read_symlink("/proc/self/exe", none).string();
}

// A device whose nodes never become its user's could not even be removed by that user.
Result<void> check_unprivileged(const ServerJob& job) {
    if (!job.device.unprivileged || job.recovered) return {};
    return check_udev_rule();
}

Result<Device> make_device(const ServerJob& job, const std::shared_ptr<Backend>& backend) {
    // Of one device alone it was told before.
    if (job.shared) {
        if (auto ready = check_unprivileged(job); !ready) return std::unexpected(ready.error());
    }
    if (!job.recovered) return Device::create(backend, job.device);
    if (auto same = check_store(*job.recovered, *backend); !same) {
        return std::unexpected(same.error());
    }
    return Device::recover(backend, job.recovered->id, job.device);
}

Result<void> publish(const ServerJob& job, const Device& device, const Backend& backend) {
    return write_state({.id = device.info().id,
                        .identity = device.info().identity,
                        .pid = getpid(),
                        .type = job.spec.type,
                        .backend = format_spec(spec_to_reopen(job.spec, grammar())),
                        .options = job.options,
                        .size = backend.geometry().size,
                        .store = backend.identity(),
                        .log_file = job.log_file,
                        .program = own_program(),
                        .supervisor = job.supervisor,
                        .supervisor_start = job.supervisor_start,
                        .recoveries = job.recovered ? job.recovered->recoveries + 1 : 0,
                        .declared_in = job.declared_in,
                        .declared_as = job.declared_as,
                        .shared = job.shared});
}

Result<Fd> start(const ServerJob& job, Device& device, const Backend& backend) {
    const DeviceId id = device.info().id;
    auto listener = claim_socket(id, !job.recovered);
    if (!listener) return listener;
    // Of a device that is recovered it is said beforehand: a server that cannot say that it serves
    // must leave the device as it was. Of one among many too: the next `ashlar serve` finds by it
    // what a killed one had begun.
    const bool beforehand = job.recovered || job.shared;
    Result<void> step;
    if (beforehand) step = publish(job, device, backend);
    if (step) step = device.start();
    if (step) step = await_node(id, device.block_path(), job.device.unprivileged);
    if (step && !beforehand) step = publish(job, device, backend);
    if (!step) return std::unexpected(step.error());
    return listener;
}

}  // namespace

Result<Served> bring_up(const ServerJob& job, const Log& log) {
    // Who may have no devices is told that first.
    if (auto control = Control::open(); !control) return std::unexpected(control.error());
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    if (auto ready = check_unprivileged(job); !ready) return std::unexpected(ready.error());
    Protections protections;
    protections.before_backend();
    auto backend = job.open_backend(
        [log](Level level, const std::string& message) { log.write(level, message); });
    if (!backend) return std::unexpected(backend.error());
    protections.after_backend(paths_to_reopen(job.spec));
    return bring_up_backend(job, std::move(*backend), std::move(protections));
}

Result<Served> bring_up_backend(const ServerJob& job, std::shared_ptr<Backend> backend,
                                Protections protections) {
    auto device = make_device(job, backend);
    if (!device) return std::unexpected(device.error());
    auto listener = start(job, *device, *backend);
    if (listener) {
        return Served{.backend = std::move(backend),
                      .device = std::move(*device),
                      .listener = std::move(*listener),
                      .protections = std::move(protections)};
    }
    if (!job.recovered) remove_orphaned_state(device->info().id);
    // Its users wait for another server.
    if (job.recovered && device->stage() != DeviceStage::removed) device->detach();
    return std::unexpected(listener.error());
}

}  // namespace ashlar::cli
