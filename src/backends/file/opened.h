// From options to an open, locked file that is good for a disk.
#pragma once

#include <cstdint>
#include <string>

#include <ashlar/backends.h>
#include <ashlar/result.h>
#include <ashlar/types.h>

#include "backends/file/underneath.h"
#include "base/fd.h"

namespace ashlar::file {

struct OpenedFile {
    Fd fd{};  // one description, hence one lock, for all sessions
    Underneath underneath{};
    Range window{};  // of the disk in the file
    std::uint32_t logical_block = 0;
    bool read_only = false;
};

// Errors (without operation): as of open_file. A file that it made is gone again after a failure.
[[nodiscard]] Result<OpenedFile> open_and_lock(const FileOptions& options);

}  // namespace ashlar::file
