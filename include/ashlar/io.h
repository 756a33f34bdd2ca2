// Io: what a session is given with each request, and everything it may await. The operations run on
// the queue's own ring: they leave with the queue's next system call and cost none of their own.
//
//     Task<> serve(Io& io, const Request& request) override {
//         const IoResult read = co_await io.read(fd_, request.buffer, request.offset);
//         if (read.ok() && read.count() != request.length) co_return std::errc::io_error;
//         co_return read;
//     }
//
// An operation starts when it is awaited and gives an IoResult: a count, which may be short as with
// the system call of the same name, or the errno. Several run at once when each is awaited by a
// Task of its own, since tasks start at once.
//
// Thread: everything here belongs to the queue's thread, but Completion::complete.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>
#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include <ashlar/arena.h>
#include <ashlar/result.h>
#include <ashlar/types.h>

namespace ashlar {

class IoScope;  // the engine's side: the ring, and what is in flight

// What the ring is asked to do. Io fills it, the engine reads it.
struct Submission {
    enum class Kind : std::uint8_t {
        read,
        write,
        readv,
        writev,
        fsync,
        fdatasync,
        fallocate,
        send,
        send_zero_copy,
        recv,
        sendmsg,
        recvmsg,
        connect,
        poll,
        sleep,
    };
    // As the kernel's __kernel_timespec.
    struct Time {
        std::int64_t seconds = 0;
        std::int64_t nanoseconds = 0;
    };
    Kind kind = Kind::read;
    int fd = -1;
    Buffer buffer{};  // the data
    // readv, writev: the iovecs; sendmsg, recvmsg: the msghdr; connect: the socket address
    const void* address = nullptr;
    std::uint64_t offset = 0;  // of a file; for streams it is not looked at
    std::uint64_t length = 0;  // fallocate: bytes; readv, writev, connect: size of *address
    std::uint32_t flags = 0;   // RWF_*, MSG_*, FALLOC_FL_*, POLL*
    bool at_once = false;      // of sendmsg: see Io::send_at_once; `length` is that of the message
    // Of the submissions that come next, so many start only when this one, and those in between,
    // succeeded (a sendmsg with MSG_WAITALL: as a whole; a short write or send from registered
    // memory did not); else they end with ECANCELED. At most kFollowersMost.
    std::uint8_t followers = 0;
    Time time{};  // sleep: how long; else the bound, none if zero
};
static_assert(std::is_trivially_copyable_v<Submission>);
inline constexpr unsigned kFollowersMost = 31;

// Something that will complete exactly once, on the queue's thread. Owner: whoever submits it; it
// stays where it is until then.
class Operation {
public:
    // result: a count, or a negative errno. flags: those of the completion queue entry.
    virtual void complete(std::int32_t result, std::uint32_t flags) noexcept = 0;

protected:
    Operation() = default;
    Operation(const Operation&) = default;
    Operation& operator=(const Operation&) = default;
    ~Operation() = default;
};

// Something that another thread has made ready; woken() runs on the queue's thread.
class Woken {
public:
    virtual void woken() noexcept = 0;
    Woken* next_woken = nullptr;  // the reactor's

protected:
    Woken() = default;
    ~Woken() = default;
};

// Told once before the ring's next system call.
class RoundHook {
public:
    virtual void before_round() noexcept = 0;

protected:
    RoundHook() = default;
    ~RoundHook() = default;

private:
    friend class Reactor;
    RoundHook* next_hook_ = nullptr;
    bool hooked_ = false;
};

// One operation of the ring, to be awaited once. It starts then, or when start() says so.
class [[nodiscard]] IoOperation final : public Operation {
public:
    IoOperation(IoScope& scope, const Submission& submission) noexcept
        : scope_(scope), submission_(submission) {}
    IoOperation(const IoOperation&) = delete;
    IoOperation& operator=(const IoOperation&) = delete;
    ~IoOperation();

    // The same, to be awaited in its place: ends with ETIMEDOUT if it takes longer. A bound that is
    // over already is the shortest there is. Not for sleep.
    IoOperation within(std::chrono::nanoseconds bound) const noexcept {
        Submission bounded = submission_;
        bounded.time = to_time(std::max(bound, std::chrono::nanoseconds(1)));
        return {scope_, bounded};
    }
    static Submission::Time to_time(std::chrono::nanoseconds time) noexcept {
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
        return {.seconds = seconds.count(), .nanoseconds = (time - seconds).count()};
    }

    // Starts now; it is awaited later, and must be. Started one after the other, operations are
    // submitted in that order.
    void start() noexcept;

    [[nodiscard]] bool await_ready() const noexcept { return state_ == State::done; }
    bool await_suspend(std::coroutine_handle<> waiter) noexcept;
    [[nodiscard]] IoResult await_resume() const noexcept { return result_; }

    void complete(std::int32_t result, std::uint32_t flags) noexcept override;

private:
    friend class IoScope;
    enum class State : std::uint8_t { idle, in_flight, done };
    [[nodiscard]] bool is_bounded() const noexcept {
        return submission_.time.seconds != 0 || submission_.time.nanoseconds != 0;
    }
    IoScope& scope_;
    Submission submission_;
    IoResult result_{};
    State state_ = State::idle;
    std::coroutine_handle<> waiter_ = nullptr;  // while in flight
    IoOperation* before_ = nullptr;             // in the scope's list, while in flight
    IoOperation* after_ = nullptr;
};

// The result of something that a foreign thread does: a client library's callback, for instance.
// Results that come in together wake the queue's thread once.
//
//     Completion done(io);
//     start_reading(..., &callback, &done);      // callback: done.complete(result)
//     const IoResult result = co_await done;
//
// It cannot be cancelled: whoever will call complete() must do so before the session is destroyed.
class Completion final : public Woken {
public:
    explicit Completion(class Io& io) noexcept;
    Completion(const Completion&) = delete;
    Completion& operator=(const Completion&) = delete;

    // Thread: any. Once.
    void complete(IoResult result) noexcept;

    [[nodiscard]] bool await_ready() const noexcept { return done_; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
    [[nodiscard]] IoResult await_resume() const noexcept { return result_; }

    void woken() noexcept override;

private:
    IoScope& scope_;
    IoResult result_{};
    bool done_ = false;
    std::coroutine_handle<> waiter_ = nullptr;
};

// A call that runs on one of a few threads made for calls that block. Io::offload makes it.
class OffloadedCall : public Woken {
public:
    OffloadedCall(const OffloadedCall&) = delete;
    OffloadedCall& operator=(const OffloadedCall&) = delete;

    static bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) noexcept;
    [[nodiscard]] IoResult await_resume() const noexcept { return result_; }

    void woken() noexcept override;
    // On the other thread; then the engine wakes the queue's.
    void run() noexcept { result_ = call(); }
    [[nodiscard]] IoScope& scope() const noexcept { return scope_; }

protected:
    explicit OffloadedCall(IoScope& scope) noexcept : scope_(scope) {}
    ~OffloadedCall() = default;
    virtual IoResult call() noexcept = 0;

private:
    IoScope& scope_;
    IoResult result_{};
    std::coroutine_handle<> waiter_ = nullptr;
};

// Io::round_end makes it.
class [[nodiscard]] RoundEnd final : public RoundHook {
public:
    explicit RoundEnd(IoScope& scope) noexcept : scope_(scope) {}
    RoundEnd(const RoundEnd&) = delete;
    RoundEnd& operator=(const RoundEnd&) = delete;
    ~RoundEnd();

    static bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept;
    static void await_resume() noexcept {}

    void before_round() noexcept override;

private:
    IoScope& scope_;
    std::coroutine_handle<> waiter_ = nullptr;
};

// What Io::offload answers: a call that blocks, on a thread of its own kind.
template <class Call>
class [[nodiscard]] Offload final : public OffloadedCall {
public:
    Offload(IoScope& scope, Call call) noexcept : OffloadedCall(scope), call_(call) {}

private:
    IoResult call() noexcept override { return call_(); }
    Call call_;
};

// What a session is given with each request. Owner: the engine. Thread: the queue's.
class Io {
public:
    // scope: the engine's; arena: of the frames of coroutines that are given this Io.
    Io(Arena& arena, IoScope& scope) noexcept : arena_(arena), scope_(scope) {}
    Io(const Io&) = delete;
    Io& operator=(const Io&) = delete;

    // pread(2) and pwrite(2). flags: RWF_* of preadv2(2). The buffer may be a registered one.
    IoOperation read(int fd, Buffer into, std::uint64_t offset, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::read,
                     .fd = fd,
                     .buffer = into,
                     .offset = offset,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    IoOperation write(int fd, Buffer from, std::uint64_t offset, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::write,
                     .fd = fd,
                     .buffer = from,
                     .offset = offset,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    // preadv(2) and pwritev(2). vectors stay valid until the result is there.
    IoOperation readv(int fd, std::span<const iovec> vectors, std::uint64_t offset) noexcept {
        return make({.kind = Submission::Kind::readv,
                     .fd = fd,
                     .address = vectors.data(),
                     .offset = offset,
                     .length = vectors.size()});
    }
    IoOperation writev(int fd, std::span<const iovec> vectors, std::uint64_t offset) noexcept {
        return make({.kind = Submission::Kind::writev,
                     .fd = fd,
                     .address = vectors.data(),
                     .offset = offset,
                     .length = vectors.size()});
    }
    IoOperation fsync(int fd) noexcept { return make({.kind = Submission::Kind::fsync, .fd = fd}); }
    IoOperation fdatasync(int fd) noexcept {
        return make({.kind = Submission::Kind::fdatasync, .fd = fd});
    }
    // fallocate(2). mode: FALLOC_FL_*.
    IoOperation fallocate(int fd, int mode, Range range) noexcept {
        return make({.kind = Submission::Kind::fallocate,
                     .fd = fd,
                     .offset = range.offset,
                     .length = range.length,
                     .flags = static_cast<std::uint32_t>(mode)});
    }
    // send(2) and recv(2). flags: MSG_*; for a registered buffer they must be 0.
    IoOperation send(int fd, Buffer from, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::send,
                     .fd = fd,
                     .buffer = from,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    // Sends without copying; the result comes when the kernel has let go of the buffer.
    IoOperation send_zero_copy(int fd, Buffer from, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::send_zero_copy,
                     .fd = fd,
                     .buffer = from,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    IoOperation recv(int fd, Buffer into, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::recv,
                     .fd = fd,
                     .buffer = into,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    // sendmsg(2) and recvmsg(2). message and all it names stay valid until the result is there.
    IoOperation sendmsg(int fd, const msghdr& message, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::sendmsg,
                     .fd = fd,
                     .address = &message,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    // The same, but what the socket does not take now is not sent: the count may be short, or the
    // errno EAGAIN. A message that left as a whole costs no completion of its own: that it did is
    // told before whatever completes next. (With SubmissionPolling this is sendmsg.)
    // length: bytes of the message. Do not wait for it before something else can complete.
    IoOperation send_at_once(int fd, const msghdr& message, std::uint64_t length,
                             int flags = 0) noexcept {
        return make({.kind = Submission::Kind::sendmsg,
                     .fd = fd,
                     .address = &message,
                     .length = length,
                     .flags = static_cast<std::uint32_t>(flags),
                     .at_once = true});
    }
    IoOperation recvmsg(int fd, msghdr& message, int flags = 0) noexcept {
        return make({.kind = Submission::Kind::recvmsg,
                     .fd = fd,
                     .address = &message,
                     .flags = static_cast<std::uint32_t>(flags)});
    }
    // connect(2). address stays valid until the result is there.
    IoOperation connect(int fd, const sockaddr* address, socklen_t length) noexcept {
        return make(
            {.kind = Submission::Kind::connect, .fd = fd, .address = address, .length = length});
    }
    // poll(2) of one descriptor. events: POLLIN, POLLOUT, ...; the result is what came.
    IoOperation poll(int fd, short events) noexcept {
        return make({.kind = Submission::Kind::poll,
                     .fd = fd,
                     .flags = static_cast<std::uint16_t>(events)});
    }
    IoOperation sleep(std::chrono::nanoseconds time) noexcept {
        return make({.kind = Submission::Kind::sleep, .time = IoOperation::to_time(time)});
    }

    // Goes on when all that came this round has been started, just before the ring's next system
    // call: for what is better done once for many requests.
    RoundEnd round_end() noexcept { return RoundEnd(scope_); }

    // Runs call, an IoResult() noexcept, on a thread where it may block. What it captures must be
    // trivial to copy: references and values of request and session.
    template <class Call>
    Offload<Call> offload(Call call) noexcept {
        static_assert(std::is_trivially_copyable_v<Call> &&
                      std::is_nothrow_invocable_r_v<IoResult, Call>);
        return Offload<Call>(scope_, call);
    }

    [[nodiscard]] Arena& arena() noexcept { return arena_; }
    [[nodiscard]] IoScope& scope() noexcept { return scope_; }

private:
    IoOperation make(const Submission& submission) noexcept { return {scope_, submission}; }

    Arena& arena_;
    IoScope& scope_;
};

inline Completion::Completion(Io& io) noexcept : scope_(io.scope()) {}

}  // namespace ashlar
