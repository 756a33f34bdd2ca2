#include "sim/storm_disk.h"

#include <cerrno>
#include <chrono>
#include <utility>

namespace ashlar::sim {

namespace {

constexpr int kDurable = 2;        // RWF_DSYNC
constexpr int kPunchHole = 2 | 1;  // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
constexpr int kZeroRange = 16;     // FALLOC_FL_ZERO_RANGE
constexpr int kTries = 40;         // of an operation that is to be tried again

class DiskSession final : public Session {
public:
    explicit DiskSession(const DiskOptions& options) : options_(options) {}

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read:
            case Op::write: return move(io, request);
            case Op::flush: return flush(io, request);
            case Op::discard: return zero(io, request, kPunchHole);
            case Op::write_zeroes: return zero(io, request, kZeroRange);
            default: return IoResult::from_errno(EOPNOTSUPP);
        }
    }

private:
    static bool again(IoResult result) {
        return result.error() == EAGAIN || result.error() == EINTR;
    }
    void look_at(const Request& request, IoResult result) const {
        if (!result.ok()) options_.watcher->failed(request, result.error());
    }
    // One operation, with the bound if there is one.
    Task<> once(Io& io, const Request& request, Buffer part, std::uint64_t done) {
        const bool durable = request.fua || !options_.capabilities.flush;
        const int flags = request.op == Op::write && durable ? kDurable : 0;
        const std::uint64_t offset = request.offset + done;
        if (options_.bound_micros != 0) {
            const auto bound = std::chrono::microseconds(options_.bound_micros);
            if (request.op == Op::read) {
                const IoResult read =
                    co_await io.read(options_.fd, part, offset, flags).within(bound);
                co_return read;
            }
            const IoResult written =
                co_await io.write(options_.fd, part, offset, flags).within(bound);
            co_return written;
        }
        if (request.op == Op::read) {
            const IoResult read = co_await io.read(options_.fd, part, offset, flags);
            co_return read;
        }
        const IoResult written = co_await io.write(options_.fd, part, offset, flags);
        co_return written;
    }
    Task<> move(Io& io, const Request& request) {
        int tries = 0;
        for (std::uint64_t done = 0; done < request.length;) {
            const Buffer part =
                request.buffer.part(static_cast<std::uint32_t>(done),
                                    static_cast<std::uint32_t>(request.length - done));
            const IoResult moved = co_await once(io, request, part, done);
            look_at(request, moved);
            if (again(moved) && ++tries < kTries) continue;
            if (!moved.ok()) co_return moved;
            if (moved.count() == 0) co_return IoResult::from_errno(EIO);
            done += moved.count();
        }
        co_return IoResult::bytes(request.length);
    }
    Task<> flush(Io& io, const Request& request) {
        IoResult result;
        for (int tries = 0; tries < kTries; ++tries) {
            result = co_await io.fdatasync(options_.fd);
            look_at(request, result);
            if (!again(result)) break;
        }
        co_return result;
    }
    Task<> zero(Io& io, const Request& request, int mode) {
        IoResult result;
        for (int tries = 0; tries < kTries; ++tries) {
            result = co_await io.fallocate(options_.fd, mode, {request.offset, request.length});
            look_at(request, result);
            if (!again(result)) break;
        }
        if (result.ok() && !options_.capabilities.flush) {
            result = co_await io.fdatasync(options_.fd);
            look_at(request, result);
        }
        co_return result;
    }

    const DiskOptions& options_;
};

class Disk final : public Backend {
public:
    explicit Disk(const DiskOptions& options) : options_(options) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "disk"; }
    [[nodiscard]] Geometry geometry() const override { return options_.geometry; }
    [[nodiscard]] Capabilities capabilities() const override { return options_.capabilities; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return options_.access; }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        return options_.copied_write_max;
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<DiskSession>(options_);
    }

private:
    const DiskOptions options_;
};

class WitnessSession final : public Session {
public:
    WitnessSession(Watcher& watcher, std::unique_ptr<Session> inner)
        : watcher_(watcher), inner_(std::move(inner)) {
        watcher_.session_opened();
    }
    ~WitnessSession() override { watcher_.session_ended(closed_ == 1); }

    Task<> serve(Io& io, const Request& request) override {
        watcher_.serving(request);
        Task<> task = inner_->serve(io, request);
        if (!task.done()) return await(io, request, std::move(task));
        watcher_.served(request, task.result());
        return task;
    }
    [[nodiscard]] std::byte* locate(const Request& request) noexcept override {
        std::byte* const place = inner_->locate(request);
        if (place != nullptr) watcher_.located(request);
        return place;
    }
    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override {
        ++closed_;
        inner_->close();
    }

private:
    Task<> await(Io&, const Request& request, Task<> task) {
        const IoResult result = co_await task;
        watcher_.served(request, result);
        co_return result;
    }

    Watcher& watcher_;
    const std::unique_ptr<Session> inner_;
    unsigned closed_ = 0;
};

class Witness final : public Backend {
public:
    Witness(std::shared_ptr<Backend> inner, Watcher& watcher)
        : inner_(std::move(inner)), watcher_(watcher) {}
    [[nodiscard]] std::string_view name() const noexcept override { return inner_->name(); }
    [[nodiscard]] Geometry geometry() const override { return inner_->geometry(); }
    [[nodiscard]] Capabilities capabilities() const override { return inner_->capabilities(); }
    [[nodiscard]] DataAccess data_access() const noexcept override { return inner_->data_access(); }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        return inner_->copied_write_max();
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto session = inner_->open_session(io);
        if (!session) return std::unexpected(session.error());
        return std::make_unique<WitnessSession>(watcher_, std::move(*session));
    }

private:
    const std::shared_ptr<Backend> inner_;
    Watcher& watcher_;
};

}  // namespace

std::shared_ptr<Backend> open_disk(const DiskOptions& options) {
    return std::make_shared<Disk>(options);
}

std::shared_ptr<Backend> open_witness(std::shared_ptr<Backend> inner, Watcher& watcher) {
    return std::make_shared<Witness>(std::move(inner), watcher);
}

}  // namespace ashlar::sim
