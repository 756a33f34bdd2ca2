// Backend: where a device's bytes live. Two ways to write one:
//
//  - a plain class with size, read and write (and, if it can, flush, discard and write_zeroes),
//    passed to make_backend: its calls are made on the queue's thread and may not block for long;
//  - a Backend that opens a Session per queue: asynchronous, full control.
//
// Capabilities follow from code: what a plain class does not define is not advertised.
#pragma once

#include <cerrno>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ashlar/metrics.h>
#include <ashlar/result.h>
#include <ashlar/task.h>
#include <ashlar/types.h>

namespace ashlar {

// Serves the requests of one queue. Owner: the queue. Thread: the queue's, always the same one;
// only the destructor may run elsewhere, if the device failed or was quiesced, after that thread's
// end.
class Session {
public:
    Session() = default;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    virtual ~Session() = default;

    // Serves one request; called again before earlier ones are done. Success means the whole
    // request, with its length as the count or none: a read that came up short is an error, and
    // where its count tells, the engine makes it EIO. A count of 0 tells nothing (the end of a
    // file). io and request stay valid until the result is given. Errors: any errno; it reaches the
    // block layer as it is. When a device cannot be stopped in time, what it awaits of io ends with
    // ECANCELED.
    virtual Task<> serve(Io& io, const Request& request) = 0;

    // DataAccess::holds only: where the bytes of a read lie, or those of a write shall go; all of
    // request.length, valid until the request is done. The engine then lets the kernel copy to or
    // from there, instead of calling serve with a buffer in between.
    [[nodiscard]] virtual std::byte* locate(const Request& request) noexcept {
        static_cast<void>(request);
        return nullptr;
    }

    // The device cannot be stopped in time: requests that wait for something else than Io, whose
    // operations end with ECANCELED now, are to end soon, with ECANCELED or whatever comes first.
    // So are those that come later.
    virtual void cancel_requests() noexcept {}

    // Called once before the end, when nothing completes any more. Requests may still be waiting,
    // if the device failed; their coroutines are destroyed after this and before the session. From
    // its return on no other thread touches a Completion of theirs.
    virtual void close() noexcept {}
};

// One device's storage. Owner: the Device it is given to (shared). Thread: every function may be
// called from any thread, open_session concurrently.
class Backend {
public:
    Backend() = default;
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;
    virtual ~Backend() = default;

    // Short and constant: "memory", "file". Appears in lists and logs.
    [[nodiscard]] virtual std::string_view name() const noexcept = 0;
    [[nodiscard]] virtual Geometry geometry() const = 0;
    [[nodiscard]] virtual Capabilities capabilities() const = 0;
    [[nodiscard]] virtual DataAccess data_access() const noexcept { return DataAccess::sees; }
    // DataAccess::routes only: writes of up to so many bytes, whole pages, are better in memory,
    // where many can leave by one operation. Where data is not copied the engine copies these, if
    // the kernel lets it (UBLK_F_USER_COPY, 6.5). 0: none.
    [[nodiscard]] virtual std::uint32_t copied_write_max() const noexcept { return 0; }
    // How many threads serve it best, however many queues there are; 0: one for each queue. For a
    // backend whose requests wait for each other anyway.
    [[nodiscard]] virtual unsigned best_threads() const noexcept { return 0; }
    // How many sessions it can have open at once; 0: any number. A device then has no more queues.
    [[nodiscard]] virtual unsigned sessions_max() const noexcept { return 0; }
    // What tells this store from another one of the same size, and stays the same when it is opened
    // again: for a recovery to check. Empty: nothing does.
    [[nodiscard]] virtual std::string identity() const { return {}; }
    // Makes the store that large; afterwards geometry() says so. Called one at a time, while
    // requests are served; none beyond the smaller of both sizes, and none is under way there. What
    // a larger store has more of reads as zeroes if it is new; where the store is a part of
    // something larger it shows what lies there, as a partition that is enlarged does. Errors:
    // EOPNOTSUPP (it cannot), EINVAL, ENOSPC, ENOMEM, ...
    [[nodiscard]] virtual Result<void> resize(std::uint64_t size) {
        static_cast<void>(size);
        return std::unexpected(Error{.operation = "resize " + std::string(name()),
                                     .code = EOPNOTSUPP,
                                     .detail = "this backend cannot be resized"});
    }
    // What it counts of its own, always the same names: they go with the device's metrics.
    [[nodiscard]] virtual std::vector<BackendCounter> counters() const { return {}; }
    // Called once per queue thread, on that thread. The session may refer to this backend. io is
    // for what it does outside requests, and is valid as long as the session; what still awaits it
    // at the end is cancelled.
    [[nodiscard]] virtual Result<std::unique_ptr<Session>> open_session(Io& io) = 0;
};

// Whether this makes a disk. Errors: EINVAL, naming the value and what is allowed.
[[nodiscard]] Result<void> check_geometry(const Geometry& geometry);

// The plain form. read fills all of `into`, write stores all of `from`, or they return an errno;
// calls come from all queues' threads at once, for distinct or overlapping ranges.
template <class T>
concept SyncBackend = requires(T& backend, const T& constant, std::uint64_t offset,
                               std::span<std::byte> into, std::span<const std::byte> from) {
    { constant.size() } -> std::convertible_to<std::uint64_t>;  // bytes, constant
    { backend.read(offset, into) } -> std::same_as<IoResult>;
    { backend.write(offset, from) } -> std::same_as<IoResult>;
};

namespace detail {

template <class T>
concept HasFlush = requires(T& backend) {
    { backend.flush() } -> std::same_as<IoResult>;
};
template <class T>
concept HasFuaWrite = requires(T& backend, std::uint64_t offset, std::span<const std::byte> from) {
    { backend.write_fua(offset, from) } -> std::same_as<IoResult>;
};
template <class T>
concept HasDiscard = requires(T& backend, Range range) {
    { backend.discard(range) } -> std::same_as<IoResult>;
};
template <class T>
concept HasWriteZeroes = requires(T& backend, Range range, bool no_unmap) {
    { backend.write_zeroes(range, no_unmap) } -> std::same_as<IoResult>;
};
template <class T>
concept HasGeometry = requires(const T& backend) {
    { backend.geometry() } -> std::same_as<Geometry>;
};
template <class T>
concept HasLocate = requires(T& backend, Range range) {
    { backend.locate(range) } -> std::same_as<std::byte*>;
};
template <class T>
concept HasReadOnly = requires(const T& backend) {
    { backend.read_only() } -> std::convertible_to<bool>;
};
template <class T>
concept HasResize = requires(T& backend, std::uint64_t size) {
    { backend.resize(size) } -> std::same_as<Result<void>>;
};
template <class T>
concept HasIdentity = requires(const T& backend) {
    { backend.identity() } -> std::convertible_to<std::string>;
};
template <class T>
concept HasName = requires(const T& backend) {
    { backend.name() } -> std::convertible_to<std::string_view>;
};

template <SyncBackend T>
IoResult serve_now(T& backend, const Request& request) {
    switch (request.op) {
        case Op::read: return backend.read(request.offset, request.bytes());
        case Op::write:
            if constexpr (HasFuaWrite<T>) {
                if (request.fua) return backend.write_fua(request.offset, request.bytes());
            }
            return backend.write(request.offset, request.bytes());
        case Op::flush:
            if constexpr (HasFlush<T>) return backend.flush();
            break;
        case Op::discard:
            if constexpr (HasDiscard<T>) return backend.discard({request.offset, request.length});
            break;
        case Op::write_zeroes:
            if constexpr (HasWriteZeroes<T>) {
                return backend.write_zeroes({request.offset, request.length}, request.no_unmap);
            }
            break;
        default: break;
    }
    return std::errc::operation_not_supported;
}

template <SyncBackend T>
class SyncSession final : public Session {
public:
    explicit SyncSession(std::shared_ptr<T> backend) : backend_(std::move(backend)) {}
    Task<> serve(Io&, const Request& request) override { return serve_now(*backend_, request); }
    [[nodiscard]] std::byte* locate(const Request& request) noexcept override {
        if constexpr (HasLocate<T>) return backend_->locate({request.offset, request.length});
        return nullptr;
    }

private:
    std::shared_ptr<T> backend_;
};

template <SyncBackend T>
class SyncAdapter final : public Backend {
public:
    explicit SyncAdapter(T backend) : backend_(std::make_shared<T>(std::move(backend))) {}
    explicit SyncAdapter(std::shared_ptr<T> backend) : backend_(std::move(backend)) {}

    [[nodiscard]] std::string_view name() const noexcept override {
        if constexpr (HasName<T>) return backend_->name();
        return "custom";
    }
    [[nodiscard]] Geometry geometry() const override {
        Geometry geometry;
        if constexpr (HasGeometry<T>) geometry = backend_->geometry();
        geometry.size = backend_->size();
        return geometry;
    }
    [[nodiscard]] Capabilities capabilities() const override {
        Capabilities capabilities{.flush = HasFlush<T>,
                                  .fua = HasFlush<T> && HasFuaWrite<T>,
                                  .discard = HasDiscard<T>,
                                  .write_zeroes = HasWriteZeroes<T>};
        if constexpr (HasReadOnly<T>) capabilities.read_only = backend_->read_only();
        return capabilities;
    }
    [[nodiscard]] DataAccess data_access() const noexcept override {
        return HasLocate<T> ? DataAccess::holds : DataAccess::sees;
    }
    [[nodiscard]] std::string identity() const override {
        if constexpr (HasIdentity<T>) return backend_->identity();
        return {};
    }
    [[nodiscard]] Result<void> resize(std::uint64_t size) override {
        if constexpr (HasResize<T>) return backend_->resize(size);
        return Backend::resize(size);
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<SyncSession<T>>(backend_);
    }

private:
    std::shared_ptr<T> backend_;
};

}  // namespace detail

// A Backend from a plain class. Optional functions beside the concept's three:
//   IoResult flush();                          everything written before is durable
//   IoResult write_fua(offset, from);          write, durable before it returns (with flush only)
//   IoResult discard(Range);
//   IoResult write_zeroes(Range, bool no_unmap);
//   std::byte* locate(Range) noexcept;         where the bytes lie: saves a copy (Session::locate)
//   Geometry geometry() const;                 block sizes and limits (size is taken from size())
//   Result<void> resize(std::uint64_t size);   see Backend::resize
//   bool read_only() const;   std::string_view name() const;   std::string identity() const;
template <SyncBackend T>
[[nodiscard]] std::shared_ptr<Backend> make_backend(T backend) {
    return std::make_shared<detail::SyncAdapter<T>>(std::move(backend));
}
// For a class that is shared with the caller, or cannot move.
template <SyncBackend T>
[[nodiscard]] std::shared_ptr<Backend> make_backend(std::shared_ptr<T> backend) {
    return std::make_shared<detail::SyncAdapter<T>>(std::move(backend));
}

}  // namespace ashlar
