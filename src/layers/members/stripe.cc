// RAID 0. Row after row, each of one chunk on every member:
//
//     disk      | chunk 0 | chunk 1 | chunk 2 | chunk 3 | ...
//     member 0  | chunk 0 | chunk 2 | ...
//     member 1  | chunk 1 | chunk 3 | ...
#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "base/units.h"
#include "layers/members/members.h"

namespace ashlar {
namespace {

constexpr std::string_view kOpen = "open stripe";
constexpr std::uint32_t kChunkMin = 4096;
constexpr std::uint64_t kPreferredMax = 256U << 20;  // of io_min and io_opt

class Stripe final : public layers::Layout {
public:
    Stripe(std::uint32_t chunk, std::size_t members)
        : chunk_(chunk), shift_(std::countr_zero(chunk)), members_(members) {}

    [[nodiscard]] Piece first_piece(Range range) const noexcept override {
        const std::uint64_t index = range.offset >> shift_;
        const std::uint64_t within = range.offset & (chunk_ - 1);
        return {.member = index % members_,
                .range = {.offset = ((index / members_) << shift_) + within,
                          .length = std::min(range.length, chunk_ - within)}};
    }

    [[nodiscard]] Range share(Range range, std::size_t member) const noexcept override {
        const std::uint64_t first = bytes_before(range.offset, member);
        const std::uint64_t end = bytes_before(range.offset + range.length, member);
        return {.offset = first, .length = end - first};
    }

private:
    // How many of the disk's first `offset` bytes lie on the member.
    [[nodiscard]] std::uint64_t bytes_before(std::uint64_t offset,
                                             std::size_t member) const noexcept {
        const std::uint64_t row = chunk_ * members_;
        const std::uint64_t within = offset % row;
        const std::uint64_t skipped = std::min(within, chunk_ * member);
        return offset / row * chunk_ + std::min(within - skipped, chunk_);
    }

    const std::uint64_t chunk_;
    const int shift_;
    const std::uint64_t members_;
};

// Bytes of a request to the disk of which no member gets more than `most`. Any whole number of rows
// is dealt out evenly; less than a row may all be one member's, up to a chunk.
std::uint64_t widened(std::uint64_t most, std::uint64_t chunk, std::uint64_t members) {
    const bool fits = most <= std::numeric_limits<std::uint64_t>::max() / members;
    return most < chunk || !fits ? most : round_down(most, chunk) * members;
}

// What is best for the disk, after what is possible.
void set_preferences(Geometry& geometry, std::uint64_t chunk, std::uint64_t members) {
    const auto is_valid = [&](std::uint64_t bytes) {
        return is_power_of_two(bytes) && bytes >= geometry.physical_block_size &&
               bytes <= kPreferredMax;
    };
    if (is_valid(chunk) && chunk > geometry.io_min) {
        geometry.io_min = static_cast<std::uint32_t>(chunk);
    }
    geometry.io_opt = is_valid(chunk * members) ? static_cast<std::uint32_t>(chunk * members) : 0;
    // A hole that lies within one chunk is whole on its member; a larger one must cover a row for
    // every chunk of its own.
    const std::uint64_t hole = std::uint64_t{geometry.discard_granularity} * members;
    if (chunk % geometry.discard_granularity != 0 &&
        hole <= std::numeric_limits<std::uint32_t>::max()) {
        geometry.discard_granularity = static_cast<std::uint32_t>(hole);
    }
}

}  // namespace

Result<std::shared_ptr<Backend>> open_stripe(Backends members, const StripeOptions& options) {
    const std::uint64_t chunk = options.chunk;
    if (!is_power_of_two(chunk) || chunk < kChunkMin) {
        return std::unexpected(layers::invalid_members(
            kOpen, "chunk is " + std::to_string(chunk) +
                       "; allowed are powers of two from 4096 to 2147483648"));
    }
    auto geometry = layers::join_geometries(kOpen, members);
    if (!geometry) return std::unexpected(geometry.error());
    std::uint64_t each = std::numeric_limits<std::uint64_t>::max();
    for (std::size_t i = 0; i < members.size(); ++i) {
        const std::uint64_t size = members[i]->geometry().size;
        each = std::min(each, round_down(size, chunk));
        if (each != 0) continue;
        return std::unexpected(layers::invalid_members(
            kOpen, "member " + std::to_string(i) + " has " + std::to_string(size) +
                       " bytes; it must have at least one chunk, " + std::to_string(chunk)));
    }
    const std::uint64_t count = members.size();
    if (each > std::numeric_limits<std::uint64_t>::max() / count) {
        return std::unexpected(
            layers::invalid_members(kOpen, "the members are more than 2^64 bytes together"));
    }
    geometry->size = each * count;
    geometry->discard_max = widened(geometry->discard_max, chunk, count);
    geometry->write_zeroes_max = widened(geometry->write_zeroes_max, chunk, count);
    set_preferences(*geometry, chunk, count);
    auto layout = std::make_unique<Stripe>(options.chunk, members.size());
    return layers::join("stripe", std::move(members), *geometry, std::move(layout));
}

}  // namespace ashlar
