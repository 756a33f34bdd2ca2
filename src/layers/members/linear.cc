// One member after the other.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/units.h"
#include "layers/members/members.h"

namespace ashlar {
namespace {

constexpr std::string_view kOpen = "open linear";

class Linear final : public layers::Layout {
public:
    // ends: where on the disk each member ends, ascending.
    explicit Linear(std::vector<std::uint64_t> ends) : ends_(std::move(ends)) {}

    [[nodiscard]] Piece first_piece(Range range) const noexcept override {
        const auto end = std::ranges::upper_bound(ends_, range.offset);
        const auto member = static_cast<std::size_t>(end - ends_.begin());
        return {.member = member, .range = share(range, member)};
    }

    [[nodiscard]] Range share(Range range, std::size_t member) const noexcept override {
        const std::uint64_t start = member == 0 ? 0 : ends_[member - 1];
        const std::uint64_t first = std::max(range.offset, start);
        const std::uint64_t end = std::min(range.offset + range.length, ends_[member]);
        if (first >= end) return {};
        return {.offset = first - start, .length = end - first};
    }

private:
    const std::vector<std::uint64_t> ends_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_linear(Backends members) {
    auto geometry = layers::join_geometries(kOpen, members);
    if (!geometry) return std::unexpected(geometry.error());
    std::vector<std::uint64_t> ends;
    for (const auto& member : members) {
        const std::uint64_t size =
            round_down(member->geometry().size, geometry->logical_block_size);
        if (size == 0) {
            return std::unexpected(layers::invalid_members(
                kOpen, "member " + std::to_string(ends.size()) + " has " +
                           std::to_string(member->geometry().size) +
                           " bytes; it must have at least one logical block of the disk, " +
                           std::to_string(geometry->logical_block_size)));
        }
        if (size > std::numeric_limits<std::uint64_t>::max() - geometry->size) {
            return std::unexpected(
                layers::invalid_members(kOpen, "the members are more than 2^64 bytes together"));
        }
        geometry->size += size;
        ends.push_back(geometry->size);
    }
    return layers::join("linear", std::move(members), *geometry,
                        std::make_unique<Linear>(std::move(ends)));
}

}  // namespace ashlar
