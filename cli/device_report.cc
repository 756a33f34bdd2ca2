#include "cli/device_report.h"

#include <fmt/format.h>

#include "cli/server_state.h"

namespace ashlar::cli {

Result<DeviceReport> report_device(Control& control, const DeviceInfo& info) {
    auto params = control.params(info.id);
    if (!params) return std::unexpected(params.error());
    DeviceReport report{.info = info, .params = *params, .type = {}, .backend = {}};
    if (auto state = read_state(info.id, info.identity)) {
        report.type = state->type;
        report.backend = state->backend;
    }
    return report;
}

namespace {

nlohmann::ordered_json text_or_null(const std::string& text) {
    if (text.empty()) return nullptr;
    return text;
}

}  // namespace

nlohmann::ordered_json to_json(const DeviceReport& report) {
    const DeviceInfo& info = report.info;
    const Geometry& geometry = report.params.geometry;
    const Capabilities& can = report.params.capabilities;
    nlohmann::ordered_json json;
    json["id"] = info.id;
    json["block_device"] = fmt::format("/dev/ublkb{}", info.id);
    json["char_device"] = fmt::format("/dev/ublkc{}", info.id);
    json["state"] = name(info.state);
    json["pid"] = info.pid > 0 ? nlohmann::ordered_json(info.pid) : nlohmann::ordered_json(nullptr);
    json["size_bytes"] = geometry.size;
    json["queues"] = info.queues;
    json["depth"] = info.depth;
    json["features"] = feature_names(info.features);
    json["owner_uid"] = info.owner_uid;
    json["type"] = text_or_null(report.type);
    json["backend"] = text_or_null(report.backend);
    json["io_max_bytes"] = info.io_max;
    json["logical_block_size"] = geometry.logical_block_size;
    json["physical_block_size"] = geometry.physical_block_size;
    json["read_only"] = can.read_only;
    json["volatile_cache"] = can.flush;
    json["fua"] = can.fua;
    json["discard"] = can.discard;
    json["write_zeroes"] = can.write_zeroes;
    return json;
}

}  // namespace ashlar::cli
