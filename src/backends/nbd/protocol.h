// The transmission phase of the NBD protocol: requests, replies, and what of a read has come.
//
// Source: "The NBD protocol", https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
// sections Transmission phase and Values. All numbers on the wire are big-endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace ashlar::nbd {

enum class Command : std::uint16_t {
    read = 0,
    write = 1,
    disconnect = 2,
    flush = 3,
    trim = 4,
    write_zeroes = 6,
};

// Of a request; each needs the export's consent.
namespace command_flag {
inline constexpr std::uint16_t fua = 1U << 0;
inline constexpr std::uint16_t no_hole = 1U << 1;
inline constexpr std::uint16_t fast_zero = 1U << 4;
}  // namespace command_flag

struct RequestHeader {
    std::uint16_t flags = 0;
    Command command = Command::read;
    std::uint64_t cookie = 0;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
};

inline constexpr std::size_t kRequestBytes = 28;
using RequestBytes = std::array<std::byte, kRequestBytes>;
[[nodiscard]] RequestBytes encode(const RequestHeader& header) noexcept;

// One reply on the wire: a simple one, or a chunk of a structured one.
struct ReplyHeader {
    enum class Kind : std::uint8_t {
        simple,  // ends the request; a read's data follows if error is 0
        none,    // a chunk that says nothing
        data,    // payload: an offset, then bytes of the export from there
        hole,    // payload: an offset and a length that read as zeroes
        error,   // payload: what went wrong
    };
    Kind kind = Kind::simple;
    bool done = true;          // the last of the request
    std::uint32_t error = 0;   // simple only: as the server says it, see errno_of
    std::uint32_t length = 0;  // bytes of payload; 0 for simple
    std::uint64_t cookie = 0;
};

inline constexpr std::size_t kMagicBytes = 4;
inline constexpr std::size_t kSimpleReplyBytes = 16;
inline constexpr std::size_t kChunkBytes = 20;  // header of a structured reply's chunk
inline constexpr std::size_t kOffsetBytes = 8;  // before the bytes of a data chunk
inline constexpr std::size_t kHoleBytes = 12;   // payload of a hole chunk
// The longest error chunk: an errno, a message of at most 4096 bytes with its length, an offset.
inline constexpr std::uint32_t kErrorBytesMax = 4 + 2 + 4096 + 8;

// How long the header is that begins with these bytes; 0: it is no reply.
[[nodiscard]] std::size_t reply_header_bytes(
    std::span<const std::byte, kMagicBytes> magic) noexcept;
// bytes: as many as reply_header_bytes says. Empty: a chunk of a kind that no request asked for, or
// with a payload that its kind cannot have.
[[nodiscard]] std::optional<ReplyHeader> decode_reply(std::span<const std::byte> bytes) noexcept;

struct Hole {
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
};
[[nodiscard]] std::uint64_t decode_offset(std::span<const std::byte, kOffsetBytes> bytes) noexcept;
[[nodiscard]] Hole decode_hole(std::span<const std::byte, kHoleBytes> bytes) noexcept;
// The errno that an error chunk's payload says; EPROTO if it makes no sense.
[[nodiscard]] int decode_error(std::span<const std::byte> payload) noexcept;

// A server's error number as an errno: the values that the protocol knows as they are, any other
// is EIO. Never 0 but for 0.
[[nodiscard]] int errno_of(std::uint32_t error) noexcept;

// What of a read's range has come: each byte must, exactly once. A server may answer in pieces in
// any order; one that leaves more than a few gaps open at a time is not believed.
class Coverage {
public:
    Coverage() noexcept = default;
    Coverage(std::uint64_t offset, std::uint32_t length) noexcept;

    // False: it is outside the range, or was there before, or leaves too many gaps.
    [[nodiscard]] bool add(std::uint64_t offset, std::uint32_t length) noexcept;
    [[nodiscard]] bool complete() const noexcept;

private:
    struct Piece {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
    };
    static constexpr std::size_t kPiecesMax = 8;

    std::uint64_t begin_ = 0;
    std::uint64_t end_ = 0;
    std::uint32_t count_ = 0;
    std::array<Piece, kPiecesMax> pieces_{};  // in order, with gaps between them
};

}  // namespace ashlar::nbd
