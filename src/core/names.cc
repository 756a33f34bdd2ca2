// The words for the values of device.h, in messages, JSON and options.
#include <ashlar/device.h>

namespace ashlar {

std::string_view name(DeviceStage stage) noexcept {
    switch (stage) {
        case DeviceStage::created: return "created";
        case DeviceStage::serving: return "serving";
        case DeviceStage::stopping: return "stopping";
        case DeviceStage::stopped: return "stopped";
        case DeviceStage::quiescing: return "quiescing";
        case DeviceStage::quiesced: return "quiesced";
        case DeviceStage::failed: return "failed";
        case DeviceStage::removed: return "removed";
    }
    return "unknown";
}

std::string_view name(Recovery recovery) noexcept {
    switch (recovery) {
        case Recovery::none: return "none";
        case Recovery::queue: return "queue";
        case Recovery::reissue: return "reissue";
        case Recovery::fail: return "fail";
    }
    return "unknown";
}

std::string_view name(DataPath path) noexcept {
    switch (path) {
        case DataPath::automatic: return "auto";
        case DataPath::zero_copy: return "zero-copy";
        case DataPath::zero_copy_manual: return "zero-copy-manual";
        case DataPath::user_copy: return "user-copy";
        case DataPath::get_data: return "get-data";
        case DataPath::copy: return "copy";
    }
    return "unknown";
}

std::string_view name(CommandStyle style) noexcept {
    switch (style) {
        case CommandStyle::automatic: return "auto";
        case CommandStyle::per_io: return "per-io";
        case CommandStyle::batch: return "batch";
    }
    return "unknown";
}

}  // namespace ashlar
