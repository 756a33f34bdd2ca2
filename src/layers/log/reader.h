// LogReader: the records of a log's file, in the order of their places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ashlar/result.h>
#include <ashlar/types.h>

#include "base/fd.h"
#include "layers/log/format.h"

namespace ashlar::layers {

// Reads what the file holds when it is opened; a server may go on writing. Thread: one at a time.
class LogReader {
public:
    // Errors: those of open(2); EINVAL (no log, a damaged head, another version).
    static Result<LogReader> open(const std::string& path);
    // The same for a file that is open; its descriptor is duplicated.
    static Result<LogReader> open(int fd, const std::string& path);

    [[nodiscard]] const LogHead& head() const noexcept { return head_; }
    // The next record that is whole, none at the end. Gaps are passed over and noted.
    // Errors: those of pread(2).
    [[nodiscard]] Result<std::optional<LogRecord>> next();
    // Bytes of a write's data, from `from` on. Errors: those of pread(2).
    [[nodiscard]] Result<void> read_data(const LogRecord& write, std::uint64_t from,
                                         std::span<std::byte> into) const;

    // Where the last record ended.
    [[nodiscard]] std::uint64_t position() const noexcept { return position_; }
    // Bytes of the file that are no record, as far as it was read.
    [[nodiscard]] const std::vector<Range>& gaps() const noexcept { return gaps_; }

private:
    LogReader(Fd file, std::string path, std::uint64_t size) noexcept
        : file_(std::move(file)), path_(std::move(path)), size_(size) {}
    [[nodiscard]] std::unexpected<Error> refuse(int code, std::string detail) const;
    [[nodiscard]] Result<void> read(std::uint64_t place, std::span<std::byte> into) const;
    // length bytes of the file, valid until the next call. Requires that it has them.
    [[nodiscard]] Result<std::span<const std::byte>> look(std::uint64_t place, std::size_t length);
    [[nodiscard]] Result<bool> data_is_sound(const LogRecord& record);

    Fd file_;
    std::string path_;
    std::uint64_t size_;  // of the file
    LogHead head_{};
    std::uint64_t position_ = 0;
    std::vector<Range> gaps_;
    std::vector<std::byte> window_;  // a piece of the file
    std::uint64_t window_at_ = 0;
};

}  // namespace ashlar::layers
