#include "backends/nbd/trust.h"

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

namespace ashlar::nbd {
namespace {

// %2F is a slash.
std::string unescaped(std::string_view text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned byte = 0;
        const std::string_view digits = text.substr(std::min(i + 1, text.size()), 2);
        const auto [end, failed] = std::from_chars(digits.begin(), digits.end(), byte, 16);
        const bool is_escape = text[i] == '%' && failed == std::errc() && end == digits.begin() + 2;
        plain += is_escape ? static_cast<char>(byte) : text[i];
        if (is_escape) i += 2;
    }
    return plain;
}

// What the URI's query says of `key`; empty: nothing.
std::string asked(std::string_view uri, std::string_view key) {
    const std::size_t query = uri.find('?');
    for (std::size_t at = query; at < uri.size();) {
        const std::size_t end = std::min(uri.find_first_of("&;", at + 1), uri.size());
        const std::string_view word = uri.substr(at + 1, end - at - 1);
        if (word.starts_with(key) && word.substr(key.size()).starts_with('=')) {
            return unescaped(word.substr(key.size() + 1));
        }
        at = end;
    }
    return {};
}

}  // namespace

Result<void> check_trust(const std::string& uri) {
    if (!uri.starts_with("nbds") || !asked(uri, "tls-psk-file").empty()) return {};
    const std::string directory = asked(uri, "tls-certificates");
    Error error{.operation = "connect to " + uri,
                .code = EINVAL,
                .detail = "the URI does not say which server to trust",
                .hint =
                    "add ?tls-certificates=DIRECTORY, which has the authority's ca-cert.pem, "
                    "or ?tls-psk-file=PATH"};
    if (directory.empty()) return std::unexpected(std::move(error));
    const std::string authority = directory + "/ca-cert.pem";
    if (access(authority.c_str(), R_OK) == 0) return {};
    error.code = errno;
    error.detail = "read " + authority;
    error.hint = "tls-certificates= names a directory that has the authority's ca-cert.pem";
    return std::unexpected(std::move(error));
}

}  // namespace ashlar::nbd
