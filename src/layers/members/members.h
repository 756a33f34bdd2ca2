// What the disks made of several backends (stripe, linear) have in common: how members' properties
// combine, and how a request becomes requests to members. Where the bytes lie is a Layout's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include <ashlar/backends.h>

namespace ashlar::layers {

// Where the bytes of a disk lie on its members. Of two bytes on one member, the one that comes
// first on the disk comes first there.
class Layout {
public:
    // Bytes that follow one another on the disk and on a member.
    struct Piece {
        std::size_t member = 0;
        Range range{};  // of the member
    };

    Layout() = default;
    Layout(const Layout&) = delete;
    Layout& operator=(const Layout&) = delete;
    virtual ~Layout() = default;

    // The longest piece with which a range of the disk, not an empty one, begins.
    [[nodiscard]] virtual Piece first_piece(Range range) const noexcept = 0;
    // What of a range of the disk lies on the member: one range there, perhaps an empty one.
    [[nodiscard]] virtual Range share(Range range, std::size_t member) const noexcept = 0;
};

// The strictest of the members' geometries, for a disk that any of them may have any block of; size
// is left 0. A request for a member is never larger than discard_max and write_zeroes_max when one
// for the disk is not. operation: what is being opened, for errors.
// Errors: EINVAL: not 2 to 64 members, one twice, or one that makes no disk.
[[nodiscard]] Result<Geometry> join_geometries(std::string_view operation, const Backends& members);

// name: of the backend, a literal. Errors: EINVAL, as check_geometry.
[[nodiscard]] Result<std::shared_ptr<Backend>> join(std::string_view name, Backends members,
                                                    const Geometry& geometry,
                                                    std::unique_ptr<const Layout> layout);

// "open stripe: ...", EINVAL.
[[nodiscard]] Error invalid_members(std::string_view operation, std::string detail);

}  // namespace ashlar::layers
