// What layers that know nothing of zones and metadata ask of what is below them.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>

#include <ashlar/backend.h>

namespace ashlar::layers {

// Errors: EINVAL.
[[nodiscard]] inline Result<void> require_plain(const Backend& inner, std::string_view operation) {
    const Geometry geometry = inner.geometry();
    if (geometry.zones.size == 0 && geometry.metadata.size == 0) return {};
    const bool zoned = geometry.zones.size != 0;
    return std::unexpected(
        Error{.operation = std::string(operation),
              .code = EINVAL,
              .detail = zoned ? "what is below is zoned" : "what is below has metadata",
              .hint = zoned ? "put this below the zones" : "put this below the metadata"});
}

}  // namespace ashlar::layers
