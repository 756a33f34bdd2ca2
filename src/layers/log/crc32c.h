// CRC-32C (Castagnoli), as in iSCSI, ext4 and Btrfs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ashlar::layers {

// before: the sum of what comes before these bytes; 0 if they are the first.
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes,
                                   std::uint32_t before = 0) noexcept;

}  // namespace ashlar::layers
