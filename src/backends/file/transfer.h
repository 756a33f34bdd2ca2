// Transfer: how far the read or write of a whole request has come.
#pragma once

#include <cerrno>
#include <cstdint>

#include <ashlar/result.h>

namespace ashlar::file {

// The kernel may transfer less than it was asked for; success of a request is all of it.
class Transfer {
public:
    // length: bytes. step: it can go on from multiples of this only (direct I/O: the block).
    Transfer(std::uint32_t length, std::uint32_t step) noexcept : length_(length), step_(step) {}

    [[nodiscard]] std::uint32_t done() const noexcept { return done_; }
    [[nodiscard]] std::uint32_t left() const noexcept { return length_ - done_; }
    // Of the whole, once take() has said that it is over.
    [[nodiscard]] IoResult result() const noexcept { return result_; }

    // part: what came of a transfer of the bytes that are left. Gives whether it is over.
    [[nodiscard]] bool take(IoResult part) noexcept {
        if (!part.ok()) {
            if (part.error() == EINTR || part.error() == EAGAIN) return false;
            result_ = part;
            return true;
        }
        done_ += static_cast<std::uint32_t>(part.count());
        if (done_ == length_) {
            result_ = IoResult::bytes(length_);
            return true;
        }
        // Nothing more, or a piece that nothing can follow: the file ends there, cut off below us.
        if (part.count() == 0 || done_ % step_ != 0) {
            result_ = std::errc::io_error;
            return true;
        }
        return false;
    }

private:
    std::uint32_t length_;
    std::uint32_t step_;
    std::uint32_t done_ = 0;
    IoResult result_{};
};

}  // namespace ashlar::file
