// The null backend: reads zeroes, drops writes. What it costs is what the engine costs, so it does
// not even fill a buffer that is known to hold zeroes.
#include <cstring>
#include <vector>

#include <ashlar/backends.h>

namespace ashlar {
namespace {

class NullSession final : public Session {
public:
    Task<> serve(Io&, const Request& request) override {
        switch (request.op) {
            case Op::read: read(request); break;
            case Op::write: of_tag(request.tag) = {}; break;  // its buffer now holds the data
            case Op::discard:
            case Op::write_zeroes: break;
            default: return IoResult(std::errc::operation_not_supported);
        }
        return IoResult::bytes(request.length);
    }

private:
    // The bytes at `data` that hold zeroes since this tag's last read.
    struct Zeroed {
        const std::byte* data = nullptr;
        std::uint64_t length = 0;
    };

    void read(const Request& request) {
        Zeroed& zeroed = of_tag(request.tag);
        if (zeroed.data == request.data && zeroed.length >= request.length) return;
        std::memset(request.data, 0, request.length);
        zeroed = {request.data, request.length};
    }

    // Grows in the first requests only: tags are small numbers and come again.
    Zeroed& of_tag(std::uint16_t tag) {
        if (tag >= zeroed_.size()) zeroed_.resize(std::size_t{tag} + 1);
        return zeroed_[tag];
    }

    std::vector<Zeroed> zeroed_;
};

class Null final : public Backend {
public:
    explicit Null(const Geometry& geometry) : geometry_(geometry) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "null"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override {
        return {.discard = true, .write_zeroes = true};
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session() override {
        return std::make_unique<NullSession>();
    }

private:
    const Geometry geometry_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_null(const NullOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    return std::make_shared<Null>(options.geometry);
}

}  // namespace ashlar
