// The metadata layer: keeps the bytes that belong to each block in a file of its own, and the data
// where it was. In the file they are inverted: what was never written is all ones to the block
// layer, which means that there is nothing to check.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <span>
#include <string>
#include <utility>

#include <ashlar/backends.h>
#include <ashlar/group_commit.h>

#include "base/assert.h"
#include "base/fd.h"
#include "base/file_lock.h"
#include "base/new_file.h"
#include "layers/metadata/stripes.h"
#include "layers/plain.h"

namespace ashlar {
namespace {

using layers::Stripes;

// How long a request waits before it looks again whether those in its way have ended.
constexpr std::chrono::microseconds kPause{100};

void invert(std::span<std::byte> bytes) noexcept {
    for (std::byte& byte : bytes) byte = ~byte;
}

class MetadataSession final : public Session {
public:
    // sync_fd: of the file, this session's own; none if it is in memory.
    MetadataSession(const Metadata& metadata, Stripes& stripes, int file, Fd sync_fd,
                    std::atomic<int>& lost, Capabilities can, std::unique_ptr<Session> inner)
        : metadata_(metadata),
          stripes_(stripes),
          file_(file),
          sync_fd_(std::move(sync_fd)),
          commit_(lost),
          can_(can),
          inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read:
                if (request.metadata.length() == 0) return inner_->serve(io, request);
                return read(io, request);
            case Op::write:
                if (request.metadata.length() == 0) return change(io, request);
                return write(io, request);
            case Op::discard:
            case Op::write_zeroes: return change(io, request);
            case Op::flush:
                if (!sync_fd_.valid()) return inner_->serve(io, request);
                return flush(io, request);
            default: return inner_->serve(io, request);
        }
    }

    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    [[nodiscard]] std::uint64_t place_of(const Request& request) const noexcept {
        return metadata_.bytes_for(request.offset);
    }
    static Range range_of(const Request& request) noexcept {
        return {.offset = request.offset, .length = request.length};
    }
    static IoResult all_of(IoResult moved, std::uint64_t length) noexcept {
        if (moved.ok() && moved.count() != length) return std::errc::io_error;
        return moved;
    }

    // Data and metadata are in two places: who reads both must not meet who writes both half way.
    Task<> read(Io& io, const Request& request) {
        Stripes::Held blocks(stripes_, range_of(request), Stripes::Use::read);
        while (!blocks.take()) {
            const IoResult slept = co_await io.sleep(kPause);
            if (!slept.ok()) co_return slept;
        }
        IoOperation reading = io.read(file_, request.metadata, place_of(request));
        reading.start();
        const IoResult data = co_await inner_->serve(io, request);
        const IoResult got = all_of(co_await reading, request.metadata.length());
        if (!data.ok()) co_return data;
        if (!got.ok()) co_return got;
        invert(request.metadata.bytes());
        co_return data;
    }

    Task<> write(Io& io, const Request& request) {
        Stripes::Held blocks(stripes_, range_of(request), Stripes::Use::change);
        while (!blocks.take()) {
            const IoResult slept = co_await io.sleep(kPause);
            if (!slept.ok()) co_return slept;
        }
        invert(request.metadata.bytes());
        IoOperation writing = io.write(file_, request.metadata, place_of(request));
        writing.start();
        const IoResult data = co_await inner_->serve(io, request);
        const IoResult put = all_of(co_await writing, request.metadata.length());
        if (!data.ok()) co_return data;
        if (!put.ok()) co_return put;
        co_return data;
    }

    // Nobody has computed what belongs to the data that is there afterwards.
    Task<> change(Io& io, const Request& request) {
        Stripes::Held blocks(stripes_, range_of(request), Stripes::Use::change);
        while (!blocks.take()) {
            const IoResult slept = co_await io.sleep(kPause);
            if (!slept.ok()) co_return slept;
        }
        const IoResult cleared =
            co_await io.fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  {place_of(request), metadata_.bytes_for(request.length)});
        if (!cleared.ok()) co_return cleared;
        co_return co_await inner_->serve(io, request);
    }

    Task<> flush(Io& io, const Request& request) {
        if (can_.flush) {
            const IoResult flushed = co_await inner_->serve(io, request);
            if (!flushed.ok()) co_return flushed;
        }
        co_return co_await commit_.flush(
            io, [this](Io& on) noexcept { return on.fdatasync(sync_fd_.get()); });
    }

    const Metadata metadata_;
    Stripes& stripes_;
    const int file_;
    const Fd sync_fd_;
    GroupCommit commit_;
    const Capabilities can_;
    const std::unique_ptr<Session> inner_;
};

class MetadataLayer final : public Backend {
public:
    MetadataLayer(std::shared_ptr<Backend> inner, Fd file, const Geometry& geometry, bool syncs)
        : inner_(std::move(inner)), file_(std::move(file)), geometry_(geometry), syncs_(syncs) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "metadata"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override {
        Capabilities can = inner_->capabilities();
        can.flush |= syncs_;
        can.fua = false;
        return can;
    }
    [[nodiscard]] std::string identity() const override { return inner_->identity(); }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return inner_->counters();
    }
    [[nodiscard]] unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    [[nodiscard]] unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override;

private:
    const std::shared_ptr<Backend> inner_;
    const Fd file_;
    const Geometry geometry_;
    const bool syncs_;          // the file
    std::atomic<int> lost_{0};  // see GroupCommit
    Stripes stripes_;
};

// Each session syncs by a description of its own: see GroupCommit.
Result<std::unique_ptr<Session>> MetadataLayer::open_session(Io& io) {
    Fd sync_fd;
    if (syncs_) {
        sync_fd = open_again(file_.get(), O_RDONLY);
        if (!sync_fd.valid()) {
            return std::unexpected(Error{.operation = "open session of metadata",
                                         .code = errno,
                                         .detail = "its file does not open by /proc/self/fd",
                                         .hint = "mount /proc"});
        }
    }
    auto session = inner_->open_session(io);
    if (!session) return std::unexpected(session.error());
    return std::make_unique<MetadataSession>(geometry_.metadata, stripes_, file_.get(),
                                             std::move(sync_fd), lost_, inner_->capabilities(),
                                             std::move(*session));
}

std::unexpected<Error> refuse(const std::string& path, int code, std::string detail = {},
                              std::string hint = {}) {
    return std::unexpected(
        Error{.operation = path.empty() ? "open metadata" : "open metadata " + path,
              .code = code,
              .detail = std::move(detail),
              .hint = std::move(hint)});
}

Result<Fd> open_file_of(const MetadataOptions& options, std::uint64_t bytes) {
    const std::string& path = options.path;
    Fd file;
    if (path.empty()) {
        file = Fd(memfd_create("ashlar-metadata", MFD_CLOEXEC));
    } else {
        const int create = options.create ? O_CREAT | O_EXCL : 0;
        file = Fd(open(path.c_str(), O_RDWR | O_CLOEXEC | create, 0600));
    }
    if (!file.valid()) {
        return refuse(path, errno, {}, errno == ENOENT ? "create makes it" : std::string());
    }
    NewFile new_file(options.create ? path : std::string());
    if (const int code = lock_file(file.get()); code != 0) {
        return refuse(path, code,
                      code == EBUSY ? "another server has it" : "it cannot be locked (flock)");
    }
    struct stat status{};
    if (fstat(file.get(), &status) != 0) return refuse(path, errno);
    if (status.st_size == 0 && ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
        return refuse(path, errno);
    }
    if (status.st_size != 0 && static_cast<std::uint64_t>(status.st_size) != bytes) {
        return refuse(path, EINVAL,
                      "it has " + std::to_string(status.st_size) + " bytes, this disk's has " +
                          std::to_string(bytes),
                      "give the disk and the format it was made with");
    }
    if (options.create && !path.empty()) {
        if (const int code = make_durable(file.get(), path); code != 0) {
            return refuse(path, code, "it was made, but cannot be made durable");
        }
    }
    new_file.keep();
    return file;
}

}  // namespace

Result<std::shared_ptr<Backend>> open_metadata(std::shared_ptr<Backend> inner,
                                               const MetadataOptions& options) {
    ASHLAR_ASSERT(inner != nullptr);
    if (auto plain = layers::require_plain(*inner, "open metadata"); !plain) {
        return std::unexpected(plain.error());
    }
    Geometry geometry = inner->geometry();
    geometry.metadata = options.format;
    if (geometry.metadata.size == 0) return refuse(options.path, EINVAL, "its size is 0");
    if (geometry.metadata.interval == 0) geometry.metadata.interval = geometry.logical_block_size;
    if (auto valid = check_geometry(geometry); !valid) return std::unexpected(valid.error());
    auto file = open_file_of(options, geometry.metadata.bytes_for(geometry.size));
    if (!file) return std::unexpected(file.error());
    return std::make_shared<MetadataLayer>(std::move(inner), std::move(*file), geometry,
                                           !options.path.empty());
}

}  // namespace ashlar
