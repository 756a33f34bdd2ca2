#include "layers/log/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

namespace ashlar::layers {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // 0x1edc6f41 with its bits reversed

// tables[n][b]: what the byte b does to the sum when n more bytes follow it.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;
constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t sum = byte;
        for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? kPolynomial : 0);
        tables[0][byte] = sum;
    }
    for (std::size_t more = 1; more < tables.size(); ++more) {
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t sum = tables[more - 1][byte];
            tables[more][byte] = (sum >> 8) ^ tables[0][sum & 0xff];
        }
    }
    return tables;
}
constexpr Tables kTables = make_tables();

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
    std::uint32_t sum = ~before;
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof(word));
        word ^= sum;
        sum = 0;
        for (std::size_t at = 0; at < 8; ++at) {
            sum ^= kTables[7 - at][(word >> (8 * at)) & 0xff];
        }
    }
    for (const std::byte byte : bytes) {
        sum = (sum >> 8) ^ kTables[0][(sum ^ std::to_integer<std::uint32_t>(byte)) & 0xff];
    }
    return ~sum;
}

}  // namespace ashlar::layers
