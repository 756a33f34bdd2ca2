// JSON as text: the one way in which it is written.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ashlar::cli {

// Bytes that are no UTF-8 (those of a path need not be) become U+FFFD: nothing that is told is
// worth an exception. indent: of the lines; -1: one line.
template <class Json>
[[nodiscard]] std::string json_text(const Json& json, int indent = -1) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ashlar::cli
