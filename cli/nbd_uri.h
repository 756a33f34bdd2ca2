// What an NBD URI names on this machine, as libnbd reads it:
// "nbds+unix:///EXPORT?socket=PATH&tls-certificates=DIRECTORY", "...&tls-psk-file=PATH".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ashlar::cli {

// Of an export without a name.
[[nodiscard]] std::string uri_of_socket(std::string_view path);

// Every path that is opened for a connection: the socket, files of keys, and those that libnbd
// looks for in a directory of certificates.
[[nodiscard]] std::vector<std::string> paths_of_uri(std::string_view uri);

// Paths that do not begin with a slash continue from this directory; the rest stays as it is.
[[nodiscard]] std::string uri_with_whole_paths(std::string_view uri, std::string_view directory);

}  // namespace ashlar::cli
