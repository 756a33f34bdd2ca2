#include "backends/nbd/protocol.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstring>

namespace ashlar::nbd {
namespace {

constexpr std::uint32_t kRequestMagic = 0x25609513;
constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
constexpr std::uint32_t kChunkMagic = 0x668e33ef;

// Of chunks.
constexpr std::uint16_t kDone = 1U << 0;
constexpr std::uint16_t kNone = 0;
constexpr std::uint16_t kData = 1;
constexpr std::uint16_t kHole = 2;
constexpr std::uint16_t kErrorBit = 1U << 15;  // of every kind that tells one

// Between the wire's order of bytes and the machine's.
template <std::unsigned_integral T>
T swap(T value) noexcept {
    return std::endian::native == std::endian::big ? value : std::byteswap(value);
}

template <std::unsigned_integral T>
T read(std::span<const std::byte> bytes, std::size_t at) noexcept {
    T value = 0;
    std::memcpy(&value, bytes.subspan(at, sizeof(T)).data(), sizeof(T));
    return swap(value);
}

template <std::unsigned_integral T>
void write(std::span<std::byte> bytes, std::size_t at, T value) noexcept {
    value = swap(value);
    std::memcpy(bytes.subspan(at, sizeof(T)).data(), &value, sizeof(T));
}

std::optional<ReplyHeader::Kind> chunk_kind(std::uint16_t type, std::uint32_t length) noexcept {
    using Kind = ReplyHeader::Kind;
    switch (type) {
        case kNone: return length == 0 ? std::optional(Kind::none) : std::nullopt;
        case kData: return length > kOffsetBytes ? std::optional(Kind::data) : std::nullopt;
        case kHole: return length == kHoleBytes ? std::optional(Kind::hole) : std::nullopt;
        default: break;
    }
    // Error kinds that are not known are errors all the same, and begin like the others.
    const bool is_error = (type & kErrorBit) != 0 && length >= 6 && length <= kErrorBytesMax;
    return is_error ? std::optional(Kind::error) : std::nullopt;
}

}  // namespace

RequestBytes encode(const RequestHeader& header) noexcept {
    RequestBytes bytes;
    write(bytes, 0, kRequestMagic);
    write(bytes, 4, header.flags);
    write(bytes, 6, static_cast<std::uint16_t>(header.command));
    write(bytes, 8, header.cookie);
    write(bytes, 16, header.offset);
    write(bytes, 24, header.length);
    return bytes;
}

std::size_t reply_header_bytes(std::span<const std::byte, kMagicBytes> magic) noexcept {
    switch (read<std::uint32_t>(magic, 0)) {
        case kSimpleReplyMagic: return kSimpleReplyBytes;
        case kChunkMagic: return kChunkBytes;
        default: return 0;
    }
}

std::optional<ReplyHeader> decode_reply(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() == kSimpleReplyBytes) {
        return ReplyHeader{.error = read<std::uint32_t>(bytes, 4),
                           .cookie = read<std::uint64_t>(bytes, 8)};
    }
    const auto length = read<std::uint32_t>(bytes, 16);
    const auto kind = chunk_kind(read<std::uint16_t>(bytes, 6), length);
    if (!kind) return std::nullopt;
    return ReplyHeader{.kind = *kind,
                       .done = (read<std::uint16_t>(bytes, 4) & kDone) != 0,
                       .length = length,
                       .cookie = read<std::uint64_t>(bytes, 8)};
}

std::uint64_t decode_offset(std::span<const std::byte, kOffsetBytes> bytes) noexcept {
    return read<std::uint64_t>(bytes, 0);
}

Hole decode_hole(std::span<const std::byte, kHoleBytes> bytes) noexcept {
    return {.offset = read<std::uint64_t>(bytes, 0), .length = read<std::uint32_t>(bytes, 8)};
}

int decode_error(std::span<const std::byte> payload) noexcept {
    if (payload.size() < 6) return EPROTO;
    const auto error = read<std::uint32_t>(payload, 0);
    const auto message = read<std::uint16_t>(payload, 4);
    if (error == 0 || message > payload.size() - 6) return EPROTO;
    return errno_of(error);
}

int errno_of(std::uint32_t error) noexcept {
    switch (error) {
        case 0: return 0;
        case 1: return EPERM;
        case 5: return EIO;
        case 12: return ENOMEM;
        case 22: return EINVAL;
        case 28: return ENOSPC;
        case 75: return EOVERFLOW;
        case 95: return EOPNOTSUPP;
        case 108: return ESHUTDOWN;
        default: return EIO;
    }
}

Coverage::Coverage(std::uint64_t offset, std::uint32_t length) noexcept
    : begin_(offset), end_(offset + length) {}

bool Coverage::add(std::uint64_t offset, std::uint32_t length) noexcept {
    if (length == 0 || offset < begin_ || offset > end_ || length > end_ - offset) return false;
    const std::uint64_t end = offset + length;
    Piece* const first = pieces_.data();
    Piece* const last = first + count_;
    // The first piece that does not end before this one begins.
    Piece* at = std::find_if(first, last, [&](const Piece& one) { return one.end >= offset; });
    if (at != last && at->end == offset) {  // it goes on with this one
        Piece* const next = at + 1;
        if (next != last && next->begin < end) return false;
        at->end = end;
        if (next != last && next->begin == end) {
            at->end = next->end;
            std::copy(next + 1, last, next);
            --count_;
        }
        return true;
    }
    if (at != last && at->begin < end) return false;
    if (at != last && at->begin == end) {
        at->begin = offset;
        return true;
    }
    if (count_ == kPiecesMax) return false;
    std::copy_backward(at, last, last + 1);
    *at = {.begin = offset, .end = end};
    ++count_;
    return true;
}

bool Coverage::complete() const noexcept {
    return count_ == 1 && pieces_[0].begin == begin_ && pieces_[0].end == end_;
}

}  // namespace ashlar::nbd
