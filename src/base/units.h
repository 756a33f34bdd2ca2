// Sizes and times as people write them, and arithmetic that cannot wrap.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

namespace ashlar {

// "4096", "64K", "1.5G", "256MiB", "1GB": K, M, G, T, P, E are powers of 1024 with or without
// "iB"; "KB", "MB", ... too. A fraction must give whole bytes. The error is a sentence saying what
// is allowed.
[[nodiscard]] std::expected<std::uint64_t, std::string> parse_size(std::string_view text);

// "1 GiB", "1.5 MiB", "512 B": for people, rounded to four digits.
[[nodiscard]] std::string format_size(std::uint64_t bytes);

// "10ms", "1.5s", "250us", "40ns": up to 9223372036 s, a fraction must give whole nanoseconds. The
// error is a sentence saying what is allowed.
[[nodiscard]] std::expected<std::chrono::nanoseconds, std::string> parse_duration(
    std::string_view text);

[[nodiscard]] constexpr bool is_power_of_two(std::unsigned_integral auto value) noexcept {
    return value != 0 && (value & (value - 1)) == 0;
}

// Requires a power of two alignment and a value that does not overflow.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T round_up(T value, std::type_identity_t<T> alignment) noexcept {
    return (value + alignment - 1) & ~(alignment - 1);
}
template <std::unsigned_integral T>
[[nodiscard]] constexpr T round_down(T value, std::type_identity_t<T> alignment) noexcept {
    return value & ~(alignment - 1);
}

}  // namespace ashlar
