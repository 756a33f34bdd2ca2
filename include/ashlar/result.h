// Errors, in two sizes: Error carries context for people, IoResult is eight bytes for the hot path.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <ashlar/types.h>

namespace ashlar {

// A failed set-up or control operation: what was tried, on what, the errno, and what to do.
struct Error {
    std::string operation{};           // "add device", "open /dev/ublk-control"
    int code = 0;                      // an errno value, positive; never 0
    std::optional<DeviceId> device{};  // when the failure concerns one device
    std::string detail{};              // what was wrong and what is allowed; may be empty
    std::string hint{};                // what to do or type; may be empty

    // One line: "operation ublkN: what went wrong (ERRNO text); hint".
    [[nodiscard]] std::string message() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

// The outcome of one request or one backend operation: bytes (or 0) on success, else an errno.
// Trivially copyable and eight bytes, so that it travels in a register.
class [[nodiscard]] IoResult {
public:
    constexpr IoResult() noexcept = default;  // success, 0
    constexpr IoResult(std::errc error) noexcept : value_(-static_cast<std::int64_t>(error)) {}

    // bytes must fit in 63 bits.
    static constexpr IoResult bytes(std::uint64_t count) noexcept {
        IoResult result;
        result.value_ = static_cast<std::int64_t>(count);
        return result;
    }
    // error is a positive errno value (EIO, ENOSPC, ...).
    static constexpr IoResult from_errno(int error) noexcept {
        IoResult result;
        result.value_ = -static_cast<std::int64_t>(error);
        return result;
    }
    // res is a count or a negative errno, as io_uring and the kernel give it.
    static constexpr IoResult from_kernel(std::int64_t res) noexcept {
        IoResult result;
        result.value_ = res;
        return result;
    }

    [[nodiscard]] constexpr bool ok() const noexcept { return value_ >= 0; }
    [[nodiscard]] constexpr std::uint64_t count() const noexcept {
        return value_ >= 0 ? static_cast<std::uint64_t>(value_) : 0;
    }
    // The positive errno, 0 on success.
    [[nodiscard]] constexpr int error() const noexcept {
        return value_ < 0 ? static_cast<int>(-value_) : 0;
    }
    friend constexpr bool operator==(IoResult, IoResult) noexcept = default;

private:
    std::int64_t value_ = 0;
};
static_assert(sizeof(IoResult) == 8);

}  // namespace ashlar
