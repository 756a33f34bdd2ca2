// The file of the log layer. A head, then records one after the other; each begins at a multiple of
// 64 bytes, since data comes in blocks. Numbers are little-endian, sums are CRC-32C.
//
//     head (64 bytes)                       record (64 bytes, then a write's data)
//      0  8  "ashlrlog"                      0  4  "rec\n"
//      8  4  version                         4  1  kind: LogRecord::Kind
//     12  4  logical block size              5  1  flags: 1 fua, 2 no_unmap
//     16  8  size of the disk                6  2  queue
//     24 36  zeroes                          8  8  place: where in the file the record begins
//     60  4  sum of the 60 bytes above      16  8  request: a completion's, its record's place
//                                           24  8  offset on the disk
//                                           32  8  length on the disk, of a write also its data's
//                                           40  4  a completion's result: 0 or an errno
//                                           44  4  sum of a write's data
//                                           48 12  zeroes
//                                           60  4  sum of the 60 bytes above
//
// A request has a record before it goes on to the disk, and a completion before it is answered. Its
// place tells a record from all others, and places tell what came first: a place is taken at the
// moment that the record is about. What was under way when a server was killed, or when the log
// could not be written, leaves a gap: bytes that are no record. No request that belongs to a gap
// was answered with success.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>

#include <ashlar/types.h>

namespace ashlar::layers {

constexpr std::uint32_t kLogVersion = 1;
constexpr std::size_t kLogUnit = 64;                             // bytes
constexpr std::uint64_t kLogDataMost = std::uint64_t{64} << 20;  // of one write; bytes

struct LogHead {
    std::uint64_t disk_size = 0;  // bytes
    std::uint32_t block = 512;    // bytes
};

struct LogRecord {
    enum class Kind : std::uint8_t { write = 1, discard, write_zeroes, flush, completion };
    Kind kind = Kind::flush;
    bool fua = false;
    bool no_unmap = false;
    std::uint16_t queue = 0;
    std::uint64_t place = 0;    // bytes
    std::uint64_t request = 0;  // completion only
    Range range{};              // of the disk; empty for flush and completion
    int error = 0;              // completion only
    std::uint32_t data_sum = 0;

    [[nodiscard]] std::uint64_t data_length() const noexcept {
        return kind == Kind::write ? range.length : 0;
    }
    [[nodiscard]] std::uint64_t end() const noexcept { return place + kLogUnit + data_length(); }
};

using LogBytes = std::array<std::byte, kLogUnit>;

[[nodiscard]] LogBytes encode(const LogHead& head) noexcept;
[[nodiscard]] LogBytes encode(const LogRecord& record) noexcept;

// What the file begins with; fewer than 64 bytes if it has no more. The error is a sentence.
[[nodiscard]] std::expected<LogHead, std::string> decode_head(std::span<const std::byte> bytes);
// None if there is no sound record of this log at that place. The data is not looked at.
[[nodiscard]] std::optional<LogRecord> decode_record(std::span<const std::byte, kLogUnit> bytes,
                                                     std::uint64_t place,
                                                     const LogHead& head) noexcept;

}  // namespace ashlar::layers
