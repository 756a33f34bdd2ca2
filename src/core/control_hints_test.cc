#include "core/control_hints.h"

#include <sys/utsname.h>
#include <unistd.h>
#include <cerrno>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

namespace control = kernel::control;

std::string kernel_release() {
    utsname names{};
    return uname(&names) == 0 ? names.release : "";
}

TEST(ControlOpenError, WithoutADriverSaysHowToLoadIt) {
    for (const int code : {ENOENT, ENXIO, ENODEV}) {
        const Error error = control_open_error(code);
        EXPECT_EQ(error.code, code);
        EXPECT_EQ(error.operation, "open /dev/ublk-control");
        EXPECT_EQ(error.detail, "the ublk driver is not loaded");
        EXPECT_EQ(error.hint, "type 'modprobe ublk_drv' (kernel 6.0 or newer), or 'ashlar doctor'");
    }
    EXPECT_EQ(control_open_error(ENOENT).message(),
              "open /dev/ublk-control: the ublk driver is not loaded (ENOENT: No such file or "
              "directory); type 'modprobe ublk_drv' (kernel 6.0 or newer), or 'ashlar doctor'");
}

TEST(ControlOpenError, WithoutRightsSaysWhoMay) {
    for (const int code : {EACCES, EPERM}) {
        const Error error = control_open_error(code);
        EXPECT_EQ(error.code, code);
        if (geteuid() == 0) {
            EXPECT_EQ(error.hint, "a container needs /dev/ublk-control and CAP_SYS_ADMIN");
        } else {
            EXPECT_EQ(error.detail, "you are not root");
            EXPECT_TRUE(error.hint.starts_with("run as root, or become a member of")) << error.hint;
        }
    }
}

TEST(ControlOpenError, AnythingElseIsItsErrno) {
    const Error error = control_open_error(EMFILE);
    EXPECT_EQ(error.message(), "open /dev/ublk-control: (EMFILE: Too many open files)");
}

struct Row {
    const kernel::Opcode& opcode;
    int code;
    std::string detail;
    std::string hint;
};

TEST(ControlError, SaysWhatItMeansAndWhatToDo) {
    const std::string release = kernel_release();
    const Row rows[] = {
        {control::add_dev, EEXIST, "the id is in use",
         "choose another id, or remove that device first"},
        {control::add_dev, ENOSPC, "no device id is free", "remove a device first"},
        {control::add_dev, EACCES, "the driver's limit on devices is reached",
         "remove a device, or raise /sys/module/ublk_drv/parameters/ublks_max as root"},
        {control::add_dev, EPERM, "adding a device needs CAP_SYS_ADMIN",
         "run as root, or ask for an unprivileged device (--unprivileged)"},
        {control::add_dev, ENOMEM, "the kernel has no memory for that many queues and requests",
         "ask for fewer queues or a smaller depth"},
        {control::add_dev, EINVAL, "kernel " + release + " does not accept these settings",
         "see 'ashlar features' for what it knows"},
        {control::get_dev_info2, ENODEV, "no such device", "'ashlar list' shows those that exist"},
        {control::del_dev, ETIMEDOUT, "the kernel did not answer in time",
         "'ashlar doctor' and the kernel's log (dmesg) may tell why"},
        {control::set_params, EACCES, "parameters cannot change while the device runs",
         "stop it first"},
        {control::start_dev, EEXIST,
         "the device runs already, or someone still holds its last block device open",
         "close or unmount it first"},
        {control::start_dev, EBUSY, "the device is being stopped", "try again"},
        {control::del_dev_async, EOPNOTSUPP, "kernel " + release + " does not know DEL_DEV_ASYNC",
         ""},
        {control::stop_dev, EBUSY, "", ""},
    };
    for (const Row& row : rows) {
        const Error error = control_error(row.opcode, DeviceId{5}, row.code);
        EXPECT_EQ(error.operation, row.opcode.name);
        EXPECT_EQ(error.code, row.code);
        EXPECT_EQ(error.device, DeviceId{5});
        EXPECT_EQ(error.detail, row.detail) << row.opcode.name << " " << row.code;
        EXPECT_EQ(error.hint, row.hint) << row.opcode.name << " " << row.code;
    }
}

// Of a privileged device the driver says EPERM, of another user's EACCES.
TEST(ControlError, SomebodyElsesDeviceIsEperm) {
    for (const int code : {EPERM, EACCES}) {
        for (const auto* opcode : {&control::stop_dev, &control::del_dev, &control::get_params,
                                   &control::get_dev_info2}) {
            const Error error = control_error(*opcode, DeviceId{5}, code);
            EXPECT_EQ(error.code, EPERM);
            if (geteuid() == 0) {
                EXPECT_EQ(error.detail, "this needs CAP_SYS_ADMIN, or to be the device's owner");
            } else {
                EXPECT_EQ(error.detail, "the device is not yours");
                EXPECT_EQ(error.hint,
                          "'ashlar list' shows those that are; root may do this to all");
            }
        }
    }
}

TEST(ControlError, WithoutADevice) {
    const Error error = control_error(control::get_features, std::nullopt, EIO);
    EXPECT_FALSE(error.device);
    EXPECT_EQ(error.message(), "GET_FEATURES: (EIO: Input/output error)");
}

}  // namespace
}  // namespace ashlar
