#include "layers/log/pending.h"

#include <algorithm>

namespace ashlar::layers {
namespace {

constexpr std::uint64_t kPiecesMost = 256;

}  // namespace

void Pending::cut(Range range) {
    const std::uint64_t end = range.offset + range.length;
    std::vector<Range> kept;
    for (const Range& piece : left) {
        const std::uint64_t piece_end = piece.offset + piece.length;
        if (piece.offset >= end || piece_end <= range.offset) {
            kept.push_back(piece);
            continue;
        }
        if (piece.offset < range.offset) {
            kept.push_back({piece.offset, range.offset - piece.offset});
        }
        if (piece_end > end) kept.push_back({end, piece_end - end});
    }
    left = std::move(kept);
}

bool Pending::covers(std::uint64_t offset) const noexcept {
    return std::ranges::any_of(left, [&](const Range& piece) {
        return offset >= piece.offset && offset - piece.offset < piece.length;
    });
}

std::vector<Range> split(Range range, std::uint32_t block) {
    const std::uint64_t blocks = range.length / block;
    const std::uint64_t step = (blocks + kPiecesMost - 1) / kPiecesMost * block;
    std::vector<Range> pieces;
    for (std::uint64_t done = 0; done < range.length; done += step) {
        pieces.push_back({range.offset + done, std::min(step, range.length - done)});
    }
    return pieces;
}

}  // namespace ashlar::layers
