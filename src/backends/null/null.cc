// The null backend: reads zeroes, drops writes.
#include <algorithm>

#include <ashlar/backends.h>

namespace ashlar {
namespace {

class Null {
public:
    explicit Null(const Geometry& geometry) : geometry_(geometry) {}

    [[nodiscard]] static std::string_view name() { return "null"; }
    [[nodiscard]] std::uint64_t size() const { return geometry_.size; }
    [[nodiscard]] Geometry geometry() const { return geometry_; }

    static IoResult read(std::uint64_t, std::span<std::byte> into) {
        std::ranges::fill(into, std::byte{0});
        return {};
    }
    static IoResult write(std::uint64_t, std::span<const std::byte>) { return {}; }
    static IoResult discard(Range) { return {}; }
    static IoResult write_zeroes(Range, bool) { return {}; }

private:
    Geometry geometry_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_null(const NullOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    return make_backend(Null(options.geometry));
}

}  // namespace ashlar
