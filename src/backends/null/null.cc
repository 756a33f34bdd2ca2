// The null backend: reads zeroes (or leaves the buffer alone), drops writes.
#include <fcntl.h>
#include <cerrno>
#include <cstring>

#include <ashlar/backends.h>

#include "base/fd.h"

namespace ashlar {
namespace {

class NullSession final : public Session {
public:
    // zeroes: reads as zeroes for ever; -1 to leave what is read alone.
    explicit NullSession(int zeroes) : zeroes_(zeroes) {}

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read: break;
            case Op::write:
            case Op::discard:
            case Op::write_zeroes: return IoResult{};
            default: return IoResult(std::errc::operation_not_supported);
        }
        if (zeroes_ < 0) return IoResult{};
        if (!request.buffer.is_memory()) return fill_registered(io, request.buffer);
        std::memset(request.buffer.data(), 0, request.buffer.length());
        return IoResult{};
    }

private:
    // Only the kernel can reach a registered buffer, so it has to bring the zeroes. It stops early
    // when there is something else for this thread to do.
    [[gnu::noinline]] Task<> fill_registered(Io& io, Buffer buffer) const {
        for (std::uint32_t done = 0; done < buffer.length();) {
            const Buffer rest = buffer.part(done, buffer.length() - done);
            const IoResult read = co_await io.read(zeroes_, rest, 0);
            if (!read.ok()) co_return read;
            if (read.count() == 0) co_return std::errc::io_error;
            done += static_cast<std::uint32_t>(read.count());
        }
        co_return IoResult{};
    }

    const int zeroes_;
};

class Null final : public Backend {
public:
    Null(const Geometry& geometry, Fd zeroes) : geometry_(geometry), zeroes_(std::move(zeroes)) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "null"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override {
        return {.discard = true, .write_zeroes = true};
    }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::routes; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<NullSession>(zeroes_.get());
    }

private:
    const Geometry geometry_;
    const Fd zeroes_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_null(const NullOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    Fd zeroes;
    if (options.fill) {
        zeroes = Fd(open("/dev/zero", O_RDONLY | O_CLOEXEC));
        if (!zeroes.valid()) {
            return std::unexpected(Error{.operation = "open /dev/zero", .code = errno});
        }
    }
    return std::make_shared<Null>(options.geometry, std::move(zeroes));
}

}  // namespace ashlar
