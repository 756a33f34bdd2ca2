// Inbox: what has come from a server and is not used yet, and what of the stream belongs to which
// call. It does no I/O: whoever reads the socket asks where the next bytes go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ashlar/types.h>

#include "backends/nbd/protocol.h"
#include "backends/nbd/wire.h"

namespace ashlar::nbd {

class Inbox {
public:
    // What is needed to go on.
    struct Want {
        enum class Kind : std::uint8_t {
            bytes,   // of the stream, at least one and at most as many as `into` has
            zeroes,  // in `into`, for which nothing comes
            move,    // of `from`, which came already, to `into`, which only the kernel can reach
            settle,  // the answer to `call` begins to come, which has not been sent as a whole yet
            broken,  // nothing: the server does not keep to the protocol
        };
        Kind kind = Kind::bytes;
        Buffer into{};
        Buffer from{};
        const Call* call = nullptr;
    };

    // structured: reads are answered in chunks. caller outlives this.
    Inbox(Caller& caller, bool structured);

    // Uses what is there; calls are answered meanwhile.
    [[nodiscard]] Want next() noexcept;
    // So many bytes of what was wanted are there.
    void came(std::uint32_t count) noexcept;

private:
    enum class Part : std::uint8_t { header, data, hole, zeroes, error };
    // A step that can go on, or one that says in want_ what it needs.
    enum class Step : std::uint8_t { on, wants };

    Step take_header() noexcept;
    Step begin(const ReplyHeader& header) noexcept;
    Step begin_simple(const ReplyHeader& header) noexcept;
    Step begin_data(std::uint64_t offset, std::uint32_t length) noexcept;
    Step take_data() noexcept;
    Step take_hole() noexcept;
    Step take_error() noexcept;
    Step end_chunk() noexcept;

    Step want_stream(std::size_t most) noexcept;
    Step want_direct(Want::Kind kind, Part part) noexcept;
    Step broken() noexcept;
    [[nodiscard]] std::span<const std::byte> there() const noexcept {
        return std::span(buffer_).subspan(begin_, end_ - begin_);
    }
    [[nodiscard]] bool is_read() const noexcept { return call_->command == Command::read; }

    Caller& caller_;
    const bool structured_;
    std::vector<std::byte> buffer_;
    std::size_t begin_ = 0;  // of what is there
    std::size_t end_ = 0;
    Want want_{};
    bool direct_ = false;  // what is wanted goes past buffer_
    // Read headers and nothing beyond: the data that follows is long, or goes where only Io
    // reaches.
    bool exact_ = true;
    Part part_ = Part::header;
    Call* call_ = nullptr;     // whose answer is being taken
    bool done_ = false;        // this part ends it
    std::uint32_t place_ = 0;  // in the call's buffer, of the next byte
    std::uint32_t left_ = 0;   // bytes of this part
};

}  // namespace ashlar::nbd
