#include "layers/log/crc32c.h"

#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace ashlar::layers {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

// The values of RFC 3720, appendix B.4, and the usual check value.
TEST(Crc32c, KnownValues) {
    EXPECT_EQ(crc32c({}), 0U);
    EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283U);
    EXPECT_EQ(crc32c(std::vector(32, std::byte{0})), 0x8a9136aaU);
    EXPECT_EQ(crc32c(std::vector(32, std::byte{0xff})), 0x62a8ab43U);
    std::vector<std::byte> rising;
    for (int i = 0; i < 32; ++i) rising.push_back(static_cast<std::byte>(i));
    EXPECT_EQ(crc32c(rising), 0x46dd794eU);
}

TEST(Crc32c, InPiecesItIsTheSame) {
    const auto whole = bytes_of("any text that is longer than two words of eight bytes");
    for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
        EXPECT_EQ(crc32c(whole.subspan(cut), crc32c(whole.first(cut))), crc32c(whole));
    }
}

}  // namespace
}  // namespace ashlar::layers
