#include "cli/ask_metrics.h"

#include <fmt/format.h>
#include <unistd.h>
#include <cerrno>
#include <utility>

#include "cli/metrics_text.h"
#include "cli/server_state.h"

namespace ashlar::cli {

Result<Metrics> ask_metrics(const DeviceInfo& info) {
    Error error{.operation = "ask for its metrics", .code = ENOTCONN, .device = info.id};
    if (info.state != DeviceState::live) {
        error.detail = "it is " + std::string(name(info.state)) + ", so nothing serves it";
        return std::unexpected(std::move(error));
    }
    auto reply = ask_server(info.id, {{"request", "metrics"}});
    if (!reply) {
        error.code = reply.error().code;
        error.detail = "its server does not answer";
        error.hint = "only a server that 'ashlar' started tells them";
        if (info.owner_uid != geteuid()) {
            error.hint = fmt::format("it answers to its own user, {}", info.owner_uid);
        } else if (state_directory().empty()) {
            error.detail = no_state_directory().detail;
            error.hint = no_state_directory().hint;
        }
        return std::unexpected(std::move(error));
    }
    auto metrics = metrics_from_json(*reply);
    if (!metrics) {
        error.code = EPROTO;
        error.detail = "its server is of another version";
        error.hint = "see 'ashlar upgrade'";
        return std::unexpected(std::move(error));
    }
    return std::move(*metrics);
}

}  // namespace ashlar::cli
