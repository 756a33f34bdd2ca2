#include "layers/log/format.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "base/units.h"
#include "layers/log/crc32c.h"

namespace ashlar::layers {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kHeadMagic = "ashlrlog";
constexpr std::string_view kRecordMagic = "rec\n";
constexpr std::size_t kSumAt = 60;
constexpr std::uint8_t kFua = 1;
constexpr std::uint8_t kNoUnmap = 2;
constexpr int kErrnoMost = 4095;

template <class T>
T get(std::span<const std::byte> bytes, std::size_t at) noexcept {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}
template <class T>
void put(LogBytes& bytes, std::size_t at, T value) noexcept {
    std::memcpy(bytes.data() + at, &value, sizeof(value));
}

void put_magic(LogBytes& bytes, std::string_view magic) noexcept {
    std::memcpy(bytes.data(), magic.data(), magic.size());
}
bool has_magic(std::span<const std::byte> bytes, std::string_view magic) noexcept {
    return std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

void put_sum(LogBytes& bytes) noexcept {
    put<std::uint32_t>(bytes, kSumAt, crc32c(std::span(bytes).first(kSumAt)));
}
bool has_sum(std::span<const std::byte> bytes) noexcept {
    return get<std::uint32_t>(bytes, kSumAt) == crc32c(bytes.first(kSumAt));
}
bool has_zeroes(std::span<const std::byte> bytes, std::size_t from) noexcept {
    return std::ranges::all_of(bytes.subspan(from, kSumAt - from),
                               [](std::byte byte) { return byte == std::byte{0}; });
}

bool makes_sense(const LogRecord& record, const LogHead& head) noexcept {
    using Kind = LogRecord::Kind;
    const Range& range = record.range;
    switch (record.kind) {
        case Kind::write:
        case Kind::discard:
        case Kind::write_zeroes:
            return record.request == 0 && record.error == 0 && range.length > 0 &&
                   range.offset % head.block == 0 && range.length % head.block == 0 &&
                   range.offset < head.disk_size && range.length <= head.disk_size - range.offset &&
                   record.data_length() <= kLogDataMost;
        case Kind::flush:
            return record.request == 0 && record.error == 0 && range.offset == 0 &&
                   range.length == 0;
        case Kind::completion:
            return record.request >= kLogUnit && record.request < record.place &&
                   record.request % kLogUnit == 0 && range.offset == 0 && range.length == 0 &&
                   record.error >= 0 && record.error <= kErrnoMost;
    }
    return false;
}

}  // namespace

LogBytes encode(const LogHead& head) noexcept {
    LogBytes bytes{};
    put_magic(bytes, kHeadMagic);
    put(bytes, 8, kLogVersion);
    put(bytes, 12, head.block);
    put(bytes, 16, head.disk_size);
    put_sum(bytes);
    return bytes;
}

LogBytes encode(const LogRecord& record) noexcept {
    LogBytes bytes{};
    put_magic(bytes, kRecordMagic);
    put(bytes, 4, static_cast<std::uint8_t>(record.kind));
    put(bytes, 5,
        static_cast<std::uint8_t>((record.fua ? kFua : 0) | (record.no_unmap ? kNoUnmap : 0)));
    put(bytes, 6, record.queue);
    put(bytes, 8, record.place);
    put(bytes, 16, record.request);
    put(bytes, 24, record.range.offset);
    put(bytes, 32, record.range.length);
    put(bytes, 40, record.error);
    put(bytes, 44, record.data_sum);
    put_sum(bytes);
    return bytes;
}

std::expected<LogHead, std::string> decode_head(std::span<const std::byte> bytes) {
    if (bytes.empty()) return std::unexpected("it is empty; a log begins with 64 bytes");
    if (bytes.size() < kLogUnit) {
        return std::unexpected("it has " + std::to_string(bytes.size()) +
                               " bytes; a log begins with 64");
    }
    if (!has_magic(bytes, kHeadMagic)) return std::unexpected("it is no log of the log layer");
    // Before the sum: another version may have it elsewhere.
    if (const auto version = get<std::uint32_t>(bytes, 8); version != kLogVersion) {
        return std::unexpected("it is of version " + std::to_string(version) +
                               "; this program reads version " + std::to_string(kLogVersion));
    }
    const LogHead head{.disk_size = get<std::uint64_t>(bytes, 16),
                       .block = get<std::uint32_t>(bytes, 12)};
    const bool block_valid = is_power_of_two(head.block) && head.block >= 512 && head.block <= 4096;
    if (!has_sum(bytes) || !has_zeroes(bytes, 24) || !block_valid || head.disk_size == 0 ||
        head.disk_size > std::uint64_t{INT64_MAX} || head.disk_size % head.block != 0) {
        return std::unexpected("its first 64 bytes are damaged");
    }
    return head;
}

std::optional<LogRecord> decode_record(std::span<const std::byte, kLogUnit> bytes,
                                       std::uint64_t place, const LogHead& head) noexcept {
    if (!has_magic(bytes, kRecordMagic) || get<std::uint64_t>(bytes, 8) != place) return {};
    if (!has_sum(bytes) || !has_zeroes(bytes, 48)) return {};
    const auto flags = get<std::uint8_t>(bytes, 5);
    if ((flags & ~(kFua | kNoUnmap)) != 0) return {};
    const LogRecord record{
        .kind = LogRecord::Kind{get<std::uint8_t>(bytes, 4)},
        .fua = (flags & kFua) != 0,
        .no_unmap = (flags & kNoUnmap) != 0,
        .queue = get<std::uint16_t>(bytes, 6),
        .place = place,
        .request = get<std::uint64_t>(bytes, 16),
        .range = {.offset = get<std::uint64_t>(bytes, 24), .length = get<std::uint64_t>(bytes, 32)},
        .error = get<std::int32_t>(bytes, 40),
        .data_sum = get<std::uint32_t>(bytes, 44)};
    if (!makes_sense(record, head)) return {};
    return record;
}

}  // namespace ashlar::layers
