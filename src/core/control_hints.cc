#include "core/control_hints.h"

#include <sys/utsname.h>
#include <unistd.h>
#include <cerrno>
#include <string>

namespace ashlar {
namespace {

namespace control = kernel::control;

std::string running_kernel() {
    utsname names{};
    return uname(&names) == 0 ? names.release : "unknown";
}

struct Explanation {
    std::string detail;
    std::string hint;
};

Explanation explain_add(int code) {
    switch (code) {
        case EEXIST: return {"the id is in use", "choose another id, or remove that device first"};
        case ENOSPC: return {"no device id is free", "remove a device first"};
        case EACCES:
            return {"the driver's limit on devices is reached",
                    "remove a device, or raise /sys/module/ublk_drv/parameters/ublks_max as root"};
        case EPERM:
            return {"adding a device needs CAP_SYS_ADMIN",
                    "run as root, or ask for an unprivileged device (--unprivileged)"};
        case ENOMEM:
            return {"the kernel has no memory for that many queues and requests",
                    "ask for fewer queues or a smaller depth"};
        case EINVAL:
            return {"kernel " + running_kernel() + " does not accept these settings",
                    "see 'ashlar features' for what it knows"};
        default: return {};
    }
}

Explanation explain(const kernel::Opcode& opcode, int code) {
    if (code == ENODEV) return {"no such device", "'ashlar list' shows those that exist"};
    if (code == ETIMEDOUT) {
        return {"the kernel did not answer in time",
                "'ashlar doctor' and the kernel's log (dmesg) may tell why"};
    }
    if (opcode.ioctl == control::add_dev.ioctl) return explain_add(code);
    if (code == EPERM || code == EACCES) {
        if (opcode.ioctl == control::set_params.ioctl) {
            return {"parameters cannot change while the device runs", "stop it first"};
        }
        return {geteuid() == 0 ? "this needs CAP_SYS_ADMIN, or to be the device's owner"
                               : "the device is not yours",
                geteuid() == 0 ? "a container needs CAP_SYS_ADMIN"
                               : "'ashlar list' shows those that are; root may do this to all"};
    }
    if (opcode.ioctl == control::start_dev.ioctl && code == EEXIST) {
        return {"the device runs already, or someone still holds its last block device open",
                "close or unmount it first"};
    }
    if (opcode.ioctl == control::start_user_recovery.ioctl && code == EBUSY) {
        return {"the device has a server", "stop that one first, or quiesce it"};
    }
    if (opcode.ioctl == control::start_user_recovery.ioctl && code == EINVAL) {
        return {"the device was made without recovery", "remove it and add it again"};
    }
    if (opcode.ioctl == control::try_stop_dev.ioctl && code == EBUSY) {
        return {"someone has the disk open", "unmount or close it first"};
    }
    if (opcode.ioctl == control::quiesce_dev.ioctl && code == EBUSY) {
        return {"the backend was busy with every request of a queue all the time", "try again"};
    }
    if (opcode.ioctl == control::start_dev.ioctl && code == EBUSY) {
        return {"the device is being stopped", "try again"};
    }
    if (code == EOPNOTSUPP) {
        return {"kernel " + running_kernel() + " does not know " + std::string(opcode.name), ""};
    }
    return {};
}

}  // namespace

Error control_open_error(int code) {
    Error error{.operation = "open /dev/ublk-control", .code = code};
    if (code == ENOENT || code == ENXIO || code == ENODEV) {
        error.detail = "the ublk driver is not loaded";
        error.hint = "type 'modprobe ublk_drv' (kernel 6.0 or newer), or 'ashlar doctor'";
    } else if (code == EACCES || code == EPERM) {
        error.detail = geteuid() == 0 ? "not permitted here" : "you are not root";
        error.hint = geteuid() == 0
                         ? "a container needs /dev/ublk-control and CAP_SYS_ADMIN"
                         : "run as root, or become a member of the group ublk to have devices "
                           "of your own: 'ashlar doctor' tells how";
    }
    return error;
}

Error control_error(const kernel::Opcode& opcode, std::optional<DeviceId> device, int code) {
    // Whose device it is, the driver sees by its node if it is an unprivileged one, and by the
    // caller's capabilities if not: EACCES and EPERM say the same. Elsewhere EACCES has a meaning.
    const bool has_meaning =
        opcode.ioctl == control::add_dev.ioctl || opcode.ioctl == control::set_params.ioctl;
    if (code == EACCES && !has_meaning) code = EPERM;
    Explanation text = explain(opcode, code);
    return Error{.operation = std::string(opcode.name),
                 .code = code,
                 .device = device,
                 .detail = std::move(text.detail),
                 .hint = std::move(text.hint)};
}

}  // namespace ashlar
