// The backends that come with Ashlar.
#pragma once

#include <memory>

#include <ashlar/backend.h>

namespace ashlar {

struct NullOptions {
    Geometry geometry{};  // size is required
    bool fill = true;     // reads give zeroes; else whatever the buffer held (of this device)
};
// Reads zeroes, drops writes. Without fill it touches no data, which measures the engine alone.
// Errors: EINVAL (geometry).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_null(const NullOptions& options);

struct MemoryOptions {
    Geometry geometry{};     // size is required
    bool hugepages = false;  // ask for transparent huge pages (madvise(2), MADV_HUGEPAGE)
};
// A sparse disk in this process's memory: a page is taken when it is first written and given back
// by discard and write_zeroes. Gone with the process. No lock is shared between queues.
// Errors: EINVAL (geometry), ENOMEM (address space).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_memory(const MemoryOptions& options);

}  // namespace ashlar
