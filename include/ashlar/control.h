// Control: the commands of /dev/ublk-control. Needed by tools; a server uses Device instead.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar {

// As the kernel reports it (UBLK_S_DEV_*).
enum class DeviceState : std::uint16_t {
    dead = 0,  // no block device: not started, stopped, or its server died
    live = 1,
    quiesced = 2,  // the server is gone or pausing; I/O waits for the next one
    fail_io = 3,   // the server is gone; I/O fails until the next one
};
[[nodiscard]] std::string_view name(DeviceState state) noexcept;

// What GET_DEV_INFO2 tells of a device.
struct DeviceInfo {
    DeviceId id = 0;
    DeviceState state = DeviceState::dead;
    std::uint16_t queues = 0;
    std::uint16_t depth = 0;     // requests in flight per queue
    std::uint32_t io_max = 0;    // bytes of the largest request
    std::int32_t pid = -1;       // the server's process; -1 when there is none
    std::uint64_t features = 0;  // UBLK_F_* as negotiated
    std::uint32_t owner_uid = 0;
    std::uint32_t owner_gid = 0;
    std::uint64_t identity = 0;  // as add() was given it; other programs use it for what they like
};

// What GET_PARAMS tells of a device.
struct DeviceParams {
    Geometry geometry;
    Capabilities capabilities;
    std::uint32_t disk_major = 0;  // both 0 when there is no block device
    std::uint32_t disk_minor = 0;
};

// What ADD_DEV is asked for; the answer may differ and is what counts.
struct AddRequest {
    std::optional<DeviceId> id{};  // none: the kernel picks the lowest free one
    std::uint16_t queues = 1;
    std::uint16_t depth = 256;
    std::uint32_t io_max = 1 << 20;
    std::uint64_t features = 0;  // UBLK_F_*
    std::uint64_t identity = 0;  // kept by the kernel (ublksrv_flags), not read by it
};

// One of the driver's optional abilities.
struct FeatureDescription {
    std::uint64_t flag = 0;  // UBLK_F_*
    std::string_view name;   // "user_copy"
    std::string since;       // the first kernel in which it works, "6.5"
    std::string_view what;   // one line
};
// All that this version of Ashlar knows, by bit.
[[nodiscard]] std::vector<FeatureDescription> known_features();
// The names of a mask's bits, by bit; an unknown one is "bit_N".
[[nodiscard]] std::vector<std::string> feature_names(std::uint64_t mask);

// Thread: one at a time. Every call is bounded by the time-out and then fails with ETIMEDOUT;
// errors otherwise carry the kernel's errno and say what to do. Who is not root may add
// unprivileged devices (UBLK_F_UNPRIVILEGED_DEV) and control those whose /dev/ublkcN it may read
// and write; to any other device each call fails with EPERM.
class Control {
public:
    // timeout: bound of each command; more than 0.
    struct Options {
        std::chrono::milliseconds timeout{10'000};
    };
    // Errors: ENOENT (no driver), EACCES/EPERM (not allowed), ENOSYS/EPERM (io_uring switched off).
    [[nodiscard]] static Result<Control> open(Options options);
    [[nodiscard]] static Result<Control> open() { return open(Options{}); }

    Control(Control&&) noexcept;
    Control& operator=(Control&&) noexcept;
    ~Control();

    // UBLK_F_* that the running kernel offers; from its version where it cannot be asked (< 6.5).
    [[nodiscard]] Result<std::uint64_t> features();

    // Errors: EEXIST (id in use), EINVAL, ENOSPC (no id left), EACCES (ublks_max reached).
    [[nodiscard]] Result<DeviceInfo> add(const AddRequest& request);
    // Allowed until the device starts. io_max: as add() answered it.
    [[nodiscard]] Result<void> set_params(DeviceId id, const Geometry& geometry,
                                          const Capabilities& capabilities, std::uint32_t io_max);
    [[nodiscard]] Result<DeviceParams> params(DeviceId id);
    // The running block device has this many bytes from now on: a multiple of its logical block.
    // Since 6.16. Errors: EOPNOTSUPP (not known, or the device was added without), ENODEV (not
    // started).
    [[nodiscard]] Result<void> update_size(DeviceId id, std::uint64_t size);
    // Memory of this process that the device's users share; whole pages, at most 4 GiB. Answers its
    // index. Since 7.1. Errors: EOPNOTSUPP, EEXIST (some of it is registered already), ENOMEM.
    [[nodiscard]] Result<std::uint16_t> register_buffer(DeviceId id, std::span<std::byte> memory);
    // Errors: ENOENT (there is no such index).
    [[nodiscard]] Result<void> unregister_buffer(DeviceId id, std::uint16_t index);
    // A new server announces itself, before it fetches. Errors: EBUSY (the last server has not let
    // go yet, or the device is live), EINVAL (no recovery: the device was added without).
    [[nodiscard]] Result<void> start_recovery(DeviceId id);
    // Waits as start() does; then requests go on. pid: the calling server's.
    [[nodiscard]] Result<void> end_recovery(DeviceId id, std::int32_t pid);
    // No new request reaches the server, and what it has fetched and not been given comes back to
    // it. Since 6.16. Errors: EBUSY when a queue had nothing but requests in flight all the time
    // (requests then wait until this is done again), EOPNOTSUPP.
    [[nodiscard]] Result<void> quiesce(DeviceId id, std::chrono::milliseconds bound);
    // Waits until every queue has fetched all its tags. pid: the calling server's.
    // Errors: EEXIST (started, or its last block device is still open), EBUSY (stopping).
    [[nodiscard]] Result<void> start(DeviceId id, std::int32_t pid);
    // Takes the block device away; requests in flight are served first.
    [[nodiscard]] Result<void> stop(DeviceId id);
    // The same, unless someone has it open: then EBUSY. Since 7.0; EOPNOTSUPP before.
    [[nodiscard]] Result<void> stop_if_unused(DeviceId id);
    // Stops if need be and waits until the server has let go and the id is free again.
    [[nodiscard]] Result<void> remove(DeviceId id);
    // The same without waiting for the id. Since 6.9; refused with EOPNOTSUPP before, and for an
    // unprivileged device.
    [[nodiscard]] Result<void> remove_async(DeviceId id);
    // Errors: ENODEV (no such device).
    [[nodiscard]] Result<DeviceInfo> info(DeviceId id);
    // Every device of this machine that the caller may see, by id.
    [[nodiscard]] Result<std::vector<DeviceInfo>> list();
    // CPUs whose requests go to this queue, ascending.
    [[nodiscard]] Result<std::vector<int>> queue_affinity(DeviceId id, std::uint16_t queue);

private:
    struct State;
    explicit Control(std::unique_ptr<State> state) noexcept;
    std::unique_ptr<State> state_;
};

}  // namespace ashlar
