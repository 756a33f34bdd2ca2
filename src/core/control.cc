#include <ashlar/control.h>

#include <dirent.h>
#include <fcntl.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <utility>

#include "base/fd.h"
#include "core/control_hints.h"
#include "kernel/codec.h"
#include "kernel/features.h"
#include "reactor/reactor.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
namespace commands = kernel::control;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kControlPath = "/dev/ublk-control";
constexpr auto kClassPath = "/sys/class/ublk-char";
// Room for the CPU masks of every machine the kernel runs on (NR_CPUS is at most 8192).
constexpr std::uint16_t kAffinityBytes = 1024;
constexpr ReactorOptions kRing{.entries = 4, .files = 1, .control_commands = true};

// A command on its way, with the buffer the kernel reads or fills.
struct Call final : Operation {
    void complete(std::int32_t res, std::uint32_t) noexcept override {
        result = res;
        done = true;
    }
    std::vector<std::byte> buffer;
    std::int32_t result = 0;
    bool done = false;
};

// What one command is about; the buffer travels both ways.
struct Command {
    const kernel::Opcode& opcode;
    std::optional<DeviceId> device{};
    std::uint64_t data = 0;
    std::uint16_t path_bytes = 0;
};

template <class T>
std::vector<std::byte> to_bytes(const T& value) {
    std::vector<std::byte> bytes(sizeof(T));
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
}

template <class T>
T from_bytes(const std::vector<std::byte>& bytes) {
    T value{};
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
}

DeviceInfo to_info(const abi::DevInfo& raw) {
    const kernel::DevSettings settings = kernel::decode_dev_info(raw);
    return {.id = settings.dev_id,
            .state = static_cast<DeviceState>(settings.state),
            .queues = settings.queues,
            .depth = settings.depth,
            .io_max = settings.io_max_bytes,
            .pid = settings.server_pid,
            .features = settings.features,
            .owner_uid = settings.owner_uid,
            .owner_gid = settings.owner_gid,
            .identity = settings.server_flags};
}

}  // namespace

std::string_view name(DeviceState state) noexcept {
    return kernel::state_name(static_cast<abi::DevState>(state));
}

std::vector<FeatureDescription> known_features() {
    std::vector<FeatureDescription> all;
    for (const auto& feature : kernel::all_features()) {
        all.push_back({feature.flag, feature.name, kernel::to_string(feature.since), feature.what});
    }
    return all;
}

std::vector<std::string> feature_names(std::uint64_t mask) {
    std::vector<std::string> names;
    for (unsigned bit = 0; bit < 64; ++bit) {
        const std::uint64_t flag = std::uint64_t{1} << bit;
        if ((mask & flag) == 0) continue;
        const auto* feature = kernel::find_feature(flag);
        names.push_back(feature != nullptr ? std::string(feature->name)
                                           : "bit_" + std::to_string(bit));
    }
    return names;
}

namespace {

kernel::ParamsOptions params_options(const Geometry& geometry, std::uint32_t io_max) {
    kernel::ParamsOptions options{.io_max_bytes = io_max, .dma_alignment = geometry.dma_alignment};
    if (geometry.segment_max != 0 || geometry.segments_max != 0 || geometry.segment_boundary != 0) {
        constexpr std::uint64_t boundary_default = std::uint64_t{1} << 32;  // the block layer's
        constexpr std::uint16_t segments_default = std::numeric_limits<std::uint16_t>::max();
        constexpr std::uint32_t segment_default = std::numeric_limits<std::uint32_t>::max();
        options.segment = kernel::abi::ParamSegment{
            .seg_boundary_mask =
                (geometry.segment_boundary != 0 ? geometry.segment_boundary : boundary_default) - 1,
            .max_segment_size = geometry.segment_max != 0 ? geometry.segment_max : segment_default,
            .max_segments = geometry.segments_max != 0 ? geometry.segments_max : segments_default,
            .pad = {},
        };
    }
    return options;
}

}  // namespace

struct Control::State {
    Options options;
    Fd fd;
    std::unique_ptr<Reactor> reactor;
    bool ioctl_commands = true;
    std::map<DeviceId, bool> unprivileged;  // of those that were asked about

    // Runs the command to its end or to the time-out. Answers the kernel's result (0 or more) and
    // leaves in `buffer` what the kernel wrote.
    Result<std::int32_t> run(Command command, std::vector<std::byte>& buffer);
    Result<std::int32_t> run(const Command& command) {
        std::vector<std::byte> none;
        return run(command, none);
    }
    Result<bool> wants_path(const Command& command);
    int await(Call& call, steady_clock::time_point deadline);
    Result<abi::DevInfo> dev_info(DeviceId id);
};

// Commands to an unprivileged device begin with its path, for the driver to see whether the caller
// may read and write that; with others it would be taken for the data.
Result<bool> Control::State::wants_path(const Command& command) {
    if (!command.device || command.opcode.ioctl == commands::add_dev.ioctl ||
        command.opcode.ioctl == commands::get_dev_info.ioctl) {
        return false;
    }
    if (command.opcode.ioctl == commands::get_dev_info2.ioctl) return true;
    const DeviceId id = *command.device;
    if (!unprivileged.contains(id)) {
        const auto known = dev_info(id);
        const int code = known ? 0 : known.error().code;
        if (code == EPERM) {
            return std::unexpected(control_error(command.opcode, command.device, code));
        }
    }
    const auto found = unprivileged.find(id);
    return found != unprivileged.end() && found->second;
}

Result<std::int32_t> Control::State::run(Command command, std::vector<std::byte>& buffer) {
    const std::uint32_t opcode = ioctl_commands ? command.opcode.ioctl : command.opcode.legacy;
    if (opcode == 0) {
        return std::unexpected(control_error(command.opcode, command.device, EOPNOTSUPP));
    }
    const auto deadline = steady_clock::now() + options.timeout;
    const auto with_path = wants_path(command);
    if (!with_path) return std::unexpected(with_path.error());
    if (*with_path) {
        const std::string path = "/dev/ublkc" + std::to_string(*command.device);
        buffer = kernel::prepend_device_path(path, buffer);
        command.path_bytes = static_cast<std::uint16_t>(path.size() + 1);
    }
    auto call = std::make_unique<Call>();
    call->buffer = std::exchange(buffer, {});
    const auto argument = kernel::make_control_command({
        .dev_id = command.device.value_or(kernel::any_device),
        .queue_id = 0xffff,
        .buffer = call->buffer.empty() ? nullptr : call->buffer.data(),
        .length = static_cast<std::uint16_t>(call->buffer.size()),
        .data = command.data,
        .dev_path_len = command.path_bytes,
    });
    int code = 0;
    do {
        call->done = false;
        reactor->control_command(fd.get(), opcode, argument, *call);
        code = await(*call, deadline);
        // A signal to the kernel's worker interrupts the command, not the wish.
    } while (code == 0 && call->result == -EINTR && steady_clock::now() < deadline);
    if (code != 0) {
        // The kernel may still write the buffer: it is given up, and the ring with it, whose end
        // interrupts the command.
        static_cast<void>(call.release());
        auto fresh = open_uring_reactor(kRing);
        if (fresh) reactor = std::move(*fresh);
        return std::unexpected(control_error(command.opcode, command.device, code));
    }
    buffer.assign(call->buffer.begin() + command.path_bytes, call->buffer.end());
    if (call->result < 0) {
        return std::unexpected(control_error(command.opcode, command.device, -call->result));
    }
    return call->result;
}

int Control::State::await(Call& call, steady_clock::time_point deadline) {
    while (!call.done) {
        const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
        if (left <= milliseconds::zero()) return ETIMEDOUT;
        const int code = reactor->run_once(left);
        if (code != 0 && code != ETIME) return code;
    }
    return 0;
}

// GET_DEV_INFO2 first: it also answers the owner of an unprivileged device.
Result<abi::DevInfo> Control::State::dev_info(DeviceId id) {
    auto buffer = to_bytes(abi::DevInfo{});
    auto answer = run({.opcode = commands::get_dev_info2, .device = id}, buffer);
    if (answer) {
        const auto info = from_bytes<abi::DevInfo>(buffer);
        unprivileged[id] = (info.flags & abi::f_unprivileged_dev) != 0;
        return info;
    }
    unprivileged.erase(id);
    const int code = answer.error().code;
    if (code != EOPNOTSUPP && code != EINVAL) return std::unexpected(answer.error());
    buffer = to_bytes(abi::DevInfo{});
    answer = run({.opcode = commands::get_dev_info, .device = id}, buffer);
    if (!answer) return std::unexpected(answer.error());
    unprivileged[id] = false;  // it knows no others
    return from_bytes<abi::DevInfo>(buffer);
}

Control::Control(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Control::Control(Control&&) noexcept = default;
Control& Control::operator=(Control&&) noexcept = default;
Control::~Control() = default;

Result<Control> Control::open(Options options) {
    auto state = std::make_unique<State>();
    state->options = options;
    state->fd = Fd(::open(kControlPath, O_RDWR | O_CLOEXEC));
    if (!state->fd.valid()) return std::unexpected(control_open_error(errno));
    auto reactor = open_uring_reactor(kRing);
    if (!reactor) return std::unexpected(reactor.error());
    state->reactor = std::move(*reactor);
    // ioctl encoding came with 6.4 and nothing answers before a device exists, so its version must
    // tell. Kernels that dropped the legacy opcodes are all newer.
    const auto* encoding = kernel::find_feature(abi::f_cmd_ioctl_encode);
    state->ioctl_commands = kernel::running_kernel_version() >= encoding->since;
    return Control(std::move(state));
}

Result<std::uint64_t> Control::features() {
    auto buffer = to_bytes(std::uint64_t{0});
    const auto answer = state_->run({.opcode = commands::get_features}, buffer);
    if (answer) return from_bytes<std::uint64_t>(buffer);
    // ENODEV: a driver that takes every unknown command for one about a device.
    const int code = answer.error().code;
    if (code == EOPNOTSUPP || code == EINVAL || code == ENODEV) {
        return kernel::infer_features(kernel::running_kernel_version());
    }
    return std::unexpected(answer.error());
}

Result<DeviceInfo> Control::add(const AddRequest& request) {
    auto buffer = to_bytes(kernel::encode_dev_info({
        .dev_id = request.id.value_or(kernel::any_device),
        .queues = request.queues,
        .depth = request.depth,
        .io_max_bytes = request.io_max,
        .features = request.features,
        .server_flags = request.identity,
    }));
    auto answer = state_->run({.opcode = commands::add_dev, .device = request.id}, buffer);
    if (!answer) return std::unexpected(answer.error());
    const DeviceInfo info = to_info(from_bytes<abi::DevInfo>(buffer));
    state_->unprivileged[info.id] = (info.features & abi::f_unprivileged_dev) != 0;
    return info;
}

Result<void> Control::set_params(DeviceId id, const Geometry& geometry,
                                 const Capabilities& capabilities, std::uint32_t io_max) {
    auto buffer =
        to_bytes(kernel::encode_params(geometry, capabilities, params_options(geometry, io_max)));
    auto answer = state_->run({.opcode = commands::set_params, .device = id}, buffer);
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<DeviceParams> Control::params(DeviceId id) {
    abi::Params wanted{};
    wanted.len = sizeof(wanted);
    auto buffer = to_bytes(wanted);
    auto answer = state_->run({.opcode = commands::get_params, .device = id}, buffer);
    if (!answer) return std::unexpected(answer.error());
    auto decoded = kernel::decode_params(buffer);
    if (!decoded) return std::unexpected(control_error(commands::get_params, id, decoded.error()));
    DeviceParams params{.geometry = decoded->geometry, .capabilities = decoded->capabilities};
    params.geometry.dma_alignment = decoded->dma_alignment;
    if (const auto& segment = decoded->segment) {
        params.geometry.segment_max = segment->max_segment_size;
        params.geometry.segments_max = segment->max_segments;
        params.geometry.segment_boundary = segment->seg_boundary_mask + 1;  // of all bits: none
    }
    if (decoded->numbers) {
        params.disk_major = decoded->numbers->disk_major;
        params.disk_minor = decoded->numbers->disk_minor;
    }
    return params;
}

Result<void> Control::start(DeviceId id, std::int32_t pid) {
    auto answer = state_->run(
        {.opcode = commands::start_dev, .device = id, .data = static_cast<std::uint64_t>(pid)});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::update_size(DeviceId id, std::uint64_t size) {
    auto answer = state_->run(
        {.opcode = commands::update_size, .device = id, .data = size >> kernel::sector_shift});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<std::uint16_t> Control::register_buffer(DeviceId id, std::span<std::byte> memory) {
    auto buffer = to_bytes(abi::ShmemBufReg{.addr = reinterpret_cast<std::uintptr_t>(memory.data()),
                                            .len = memory.size(),
                                            .flags = 0,
                                            .reserved = 0});
    auto answer = state_->run({.opcode = commands::reg_buf, .device = id}, buffer);
    if (!answer) return std::unexpected(answer.error());
    return static_cast<std::uint16_t>(*answer);
}

Result<void> Control::unregister_buffer(DeviceId id, std::uint16_t index) {
    auto answer = state_->run({.opcode = commands::unreg_buf, .device = id, .data = index});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::start_recovery(DeviceId id) {
    auto answer = state_->run({.opcode = commands::start_user_recovery, .device = id});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::end_recovery(DeviceId id, std::int32_t pid) {
    auto answer = state_->run({.opcode = commands::end_user_recovery,
                               .device = id,
                               .data = static_cast<std::uint64_t>(pid)});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::quiesce(DeviceId id, milliseconds bound) {
    auto answer = state_->run({.opcode = commands::quiesce_dev,
                               .device = id,
                               .data = static_cast<std::uint64_t>(bound.count())});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::stop_if_unused(DeviceId id) {
    auto answer = state_->run({.opcode = commands::try_stop_dev, .device = id});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::stop(DeviceId id) {
    auto answer = state_->run({.opcode = commands::stop_dev, .device = id});
    if (!answer) return std::unexpected(answer.error());
    return {};
}

Result<void> Control::remove(DeviceId id) {
    auto answer = state_->run({.opcode = commands::del_dev, .device = id});
    if (!answer) return std::unexpected(answer.error());
    state_->unprivileged.erase(id);  // the next one may be of the other kind
    return {};
}

Result<void> Control::remove_async(DeviceId id) {
    auto answer = state_->run({.opcode = commands::del_dev_async, .device = id});
    if (answer) {
        state_->unprivileged.erase(id);
        return {};
    }
    Error error = answer.error();
    if (error.code == EINVAL) {
        // No driver so far knows what rights over an unprivileged device this takes.
        error.code = EOPNOTSUPP;
        error.detail = "the driver has it for privileged devices only";
        error.hint = "wait for the removal";
    }
    return std::unexpected(std::move(error));
}

Result<DeviceInfo> Control::info(DeviceId id) {
    auto raw = state_->dev_info(id);
    if (!raw) return std::unexpected(raw.error());
    return to_info(*raw);
}

Result<std::vector<DeviceInfo>> Control::list() {
    std::vector<DeviceId> ids;
    if (DIR* directory = opendir(kClassPath); directory != nullptr) {
        constexpr std::string_view prefix = "ublkc";
        while (const dirent* entry = readdir(directory)) {
            const std::string_view file = entry->d_name;
            DeviceId id = 0;
            if (!file.starts_with(prefix)) continue;
            const auto* end = file.data() + file.size();
            const auto parsed = std::from_chars(file.data() + prefix.size(), end, id);
            if (parsed.ec == std::errc{} && parsed.ptr == end) ids.push_back(id);
        }
        closedir(directory);
    }
    std::sort(ids.begin(), ids.end());
    std::vector<DeviceInfo> devices;
    for (const DeviceId id : ids) {
        auto device = info(id);
        if (device) {
            devices.push_back(*device);
        } else if (device.error().code != ENODEV && device.error().code != ENOENT &&
                   device.error().code != EPERM) {
            // Gone meanwhile, or its node is, or not ours to see; anything else is to be told.
            return std::unexpected(device.error());
        }
    }
    return devices;
}

Result<std::vector<int>> Control::queue_affinity(DeviceId id, std::uint16_t queue) {
    std::vector<std::byte> mask(kAffinityBytes);
    auto answer =
        state_->run({.opcode = commands::get_queue_affinity, .device = id, .data = queue}, mask);
    if (!answer) return std::unexpected(answer.error());
    std::vector<int> cpus;
    for (std::size_t byte = 0; byte < mask.size(); ++byte) {
        for (int bit = 0; bit < 8; ++bit) {
            if ((mask[byte] >> bit & std::byte{1}) != std::byte{0}) {
                cpus.push_back(static_cast<int>(byte) * 8 + bit);
            }
        }
    }
    return cpus;
}

}  // namespace ashlar
