// Pending: what a log tells of a request that is not durable yet.
#pragma once

#include <cstdint>
#include <vector>

#include <ashlar/types.h>

#include "layers/log/format.h"

namespace ashlar::layers {

struct Pending {
    LogRecord record{};
    bool ended = false;              // answered, with success or not
    std::uint64_t completed_at = 0;  // the place of its success; 0: none
    // What later durable requests have not replaced.
    std::vector<Range> left{};

    [[nodiscard]] bool completed_before(std::uint64_t place) const noexcept {
        return completed_at != 0 && completed_at < place;
    }
    // A later request has replaced these bytes for good.
    void cut(Range range);
    // Where in the data of a write the byte at `offset` of the disk is.
    [[nodiscard]] std::uint64_t data_at(std::uint64_t offset) const noexcept {
        return offset - record.range.offset;
    }
    [[nodiscard]] bool covers(std::uint64_t offset) const noexcept;
};

// A request cut in at most 256 pieces of whole blocks; each may reach the disk or not.
[[nodiscard]] std::vector<Range> split(Range range, std::uint32_t block);

}  // namespace ashlar::layers
