// The file of `ashlar serve`: TOML that declares the devices of one process.
//
//     [server]
//     threads = 2
//
//     [device.data]            # or [[device]] with name = "data"
//     type = "file"
//     path = "/data/a.img"
//     recovery = "reissue"
//     layers = ["delay:read=1ms"]
//
// A device has the words of `ashlar add`: those of its type, and those of every device. A flag is
// true or false, a number may go without quotes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "cli/backend_spec.h"
#include "cli/server.h"

namespace ashlar::cli {

// One device of the file.
struct Declaration {
    std::string name;
    std::size_t line = 0;
    ServerJob job{};  // without threads
};

struct ServeFile {
    std::string path{};    // absolute
    unsigned threads = 0;  // 0: one for each CPU
    int nice = kNiceOfDisks;
    std::string log{};   // "stderr", "syslog" or an absolute path
    bool force = false;  // a device that is gone from the file is removed even if it is in use
    std::vector<Declaration> devices{};
};

// Errors: "PATH:LINE: what was wrong, what is allowed". Relative paths continue from the directory
// of the file. Opens nothing that the file names.
[[nodiscard]] Parsed<ServeFile> parse_serve_file(std::string_view text, const std::string& path);
// The same of a file. path: any.
[[nodiscard]] Parsed<ServeFile> read_serve_file(const std::string& path);

// What differs in the declarations of one device, in words: "size, queues"; empty: nothing.
[[nodiscard]] std::string list_changes(const Declaration& before, const Declaration& now);

}  // namespace ashlar::cli
