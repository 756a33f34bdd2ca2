#include "cli/nbd_uri.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

namespace ashlar::cli {
namespace {

constexpr std::string_view kCertificates = "tls-certificates";
constexpr std::array<std::string_view, 3> kKeys = {"socket", "tls-psk-file", kCertificates};
constexpr std::array<std::string_view, 4> kFilesOfCertificates = {
    "ca-cert.pem", "ca-crl.pem", "client-cert.pem", "client-key.pem"};

std::string percent_escaped(std::string_view path) {
    constexpr std::string_view plain = "/-._";
    std::string text;
    for (const char c : path) {
        const bool as_it_is = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                              (c >= '0' && c <= '9') || plain.find(c) != std::string_view::npos;
        text +=
            as_it_is ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
    }
    return text;
}

// %2F is a slash.
std::string without_percents(std::string_view text) {
    std::string plain;
    for (std::size_t at = 0; at < text.size(); ++at) {
        unsigned byte = 0;
        const std::string_view digits = text.substr(std::min(at + 1, text.size()), 2);
        const char* const end = digits.data() + digits.size();
        const auto parsed = std::from_chars(digits.data(), end, byte, 16);
        const bool escaped =
            text[at] == '%' && digits.size() == 2 && parsed.ec == std::errc() && parsed.ptr == end;
        plain += escaped ? static_cast<char>(byte) : text[at];
        if (escaped) at += 2;
    }
    return plain;
}

struct Named {
    std::string key;
    std::string path;
    std::size_t at;  // where it begins in the URI
};

std::vector<Named> find_paths(std::string_view uri) {
    std::vector<Named> found;
    uri = uri.substr(0, uri.find('#'));
    for (std::size_t at = uri.find('?'); at < uri.size();) {
        const std::size_t end = std::min(uri.find_first_of("&;", at + 1), uri.size());
        const std::string_view word = uri.substr(at + 1, end - at - 1);
        const std::size_t equals = word.find('=');
        std::string key = without_percents(word.substr(0, equals));
        if (equals != std::string_view::npos && equals + 1 < word.size() &&
            std::ranges::find(kKeys, key) != kKeys.end()) {
            found.push_back({.key = std::move(key),
                             .path = without_percents(word.substr(equals + 1)),
                             .at = at + 1 + equals + 1});
        }
        at = end;
    }
    return found;
}

}  // namespace

std::string uri_of_socket(std::string_view path) {
    return "nbd+unix:///?socket=" + percent_escaped(path);
}

std::vector<std::string> paths_of_uri(std::string_view uri) {
    std::vector<std::string> paths;
    for (const Named& one : find_paths(uri)) {
        paths.push_back(one.path);
        if (one.key != kCertificates) continue;
        for (const std::string_view file : kFilesOfCertificates) {
            paths.push_back(fmt::format("{}/{}", one.path, file));
        }
    }
    return paths;
}

std::string uri_with_whole_paths(std::string_view uri, std::string_view directory) {
    std::string whole(uri);
    const std::string before = percent_escaped(directory) + (directory.ends_with('/') ? "" : "/");
    std::size_t grown = 0;
    for (const Named& one : find_paths(uri)) {
        if (one.path.starts_with('/')) continue;
        whole.insert(one.at + grown, before);
        grown += before.size();
    }
    return whole;
}

}  // namespace ashlar::cli
