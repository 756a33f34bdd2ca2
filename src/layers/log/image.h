// Image: a file that stands for a disk, and can be brought back to what it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

#include "base/fd.h"

namespace ashlar::layers {

// Ranges lie within the disk. Errors of all: those of the system calls.
class Image {
public:
    // Makes it, all zeroes; a file that exists must be empty. With `over` it exists, of that size
    // or larger, and keeps its content. Errors: EEXIST, EINVAL.
    [[nodiscard]] static Result<Image> open(const std::string& path, std::uint64_t size, bool over);

    // To be read only.
    [[nodiscard]] static Result<Image> open_to_read(const std::string& path, std::uint64_t size);

    [[nodiscard]] Result<void> write(std::uint64_t offset, std::span<const std::byte> from);
    [[nodiscard]] Result<void> zero(Range range);
    [[nodiscard]] Result<void> read(std::uint64_t offset, std::span<std::byte> into) const;

    // Keeps what these ranges hold, for one restore. Requires that nothing is kept.
    [[nodiscard]] Result<void> save(std::vector<Range> ranges);
    // Nothing happens if nothing is kept.
    [[nodiscard]] Result<void> restore();

private:
    Image(std::string path, Fd file, Fd kept) noexcept
        : path_(std::move(path)), file_(std::move(file)), kept_(std::move(kept)) {}
    [[nodiscard]] std::unexpected<Error> fail(int code, std::string detail = {}) const;
    // Holes stay holes.
    [[nodiscard]] Result<void> copy(const Fd& from, const Fd& to, Range range) const;

    std::string path_;
    Fd file_;
    Fd kept_;  // the kept ranges, where they were
    std::vector<Range> ranges_;
};

// The same bytes as ranges that do not touch each other, in order.
[[nodiscard]] std::vector<Range> merge(std::vector<Range> ranges);

}  // namespace ashlar::layers
