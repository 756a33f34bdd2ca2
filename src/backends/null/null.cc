// The null backend: reads zeroes (or leaves the buffer alone), drops writes.
#include <cstring>

#include <ashlar/backends.h>

namespace ashlar {
namespace {

class Null {
public:
    explicit Null(const NullOptions& options) : options_(options) {}

    [[nodiscard]] static std::string_view name() { return "null"; }
    [[nodiscard]] std::uint64_t size() const { return options_.geometry.size; }
    [[nodiscard]] Geometry geometry() const { return options_.geometry; }

    IoResult read(std::uint64_t, std::span<std::byte> into) const {
        if (options_.fill) std::memset(into.data(), 0, into.size());
        return {};
    }
    static IoResult write(std::uint64_t, std::span<const std::byte>) { return {}; }
    static IoResult discard(Range) { return {}; }
    static IoResult write_zeroes(Range, bool) { return {}; }

private:
    const NullOptions options_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_null(const NullOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    return make_backend(Null(options));
}

}  // namespace ashlar
