#include "backends/nbd/tls_wire.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <array>
#include <cerrno>
#include <deque>
#include <string_view>
#include <utility>

#include "backends/nbd/hang_up.h"
#include "backends/nbd/protocol.h"
#include "backends/nbd/signal.h"
#include "base/fd.h"

namespace ashlar::nbd {
namespace {

static_assert(command_flag::fua == LIBNBD_CMD_FLAG_FUA);
static_assert(command_flag::no_hole == LIBNBD_CMD_FLAG_NO_HOLE);

// Why the connection is at its end. libnbd has an errno for some reasons only.
int reason() {
    const int code = libnbd().get_errno();
    if (code == EPIPE) return ECONNRESET;
    if (code != 0) return code;
    const char* const error = libnbd().get_error();
    const std::string_view text = error != nullptr ? error : "";
    constexpr std::array<std::string_view, 4> broken{"disconnected", "terminated", "pull function",
                                                     "push function"};
    for (const std::string_view word : broken) {
        if (text.find(word) != std::string_view::npos) return ECONNRESET;
    }
    return EPROTO;
}

class TlsWire final : public Wire {
public:
    TlsWire(Handle handle, Fd socket, Caller& caller)
        : handle_(std::move(handle)), socket_(std::move(socket)), caller_(caller) {}
    // Newer ones tell the end of what has no answer when they are closed, and so touch the slots.
    ~TlsWire() override { handle_.reset(); }
    TlsWire(const TlsWire&) = delete;
    TlsWire& operator=(const TlsWire&) = delete;

    Task<> run(Io& io) override {
        Task<> sending = send_all(io);  // NOLINT(misc-const-correctness): it is awaited below
        const IoResult received = co_await receive_all(io);
        if (received.error() != ECANCELED) hang_up();
        ended_ = true;
        work_.give();
        const IoResult sent = co_await sending;
        static_cast<void>(sent);
        // libnbd is not called any more but to say goodbye, and so touches no buffer.
        for (Slot& slot : slots_) slot.call = nullptr;
        if (received.error() != ECANCELED) handle_.reset();
        co_return received;
    }

    void send(Call& call) noexcept override {
        if (ended_) return;  // whoever waits for it finds it again
        call.next_unsent = nullptr;
        (last_unsent_ != nullptr ? last_unsent_->next_unsent : first_unsent_) = &call;
        last_unsent_ = &call;
        work_.give();
    }

    void hang_up() noexcept override { nbd::hang_up(socket_.get()); }

    void say_goodbye() noexcept override {
        // Not in the middle of a request, which would go on with data that may be gone.
        if (handle_ == nullptr || libnbd().aio_is_ready(handle_.get()) != 1) return;
        libnbd().aio_disconnect(handle_.get(), 0);
    }

private:
    // What libnbd knows a call by. It stays as long as the wire; a call may not.
    struct Slot {
        TlsWire* wire = nullptr;
        Call* call = nullptr;
        int error = 0;
        bool lie = false;  // data outside of what was asked, or twice
        Slot* next = nullptr;
    };

    // ---- libnbd's callbacks, inside a call of libnbd: nothing of libnbd may be called
    // ------------

    static int on_chunk(void* context, const void*, std::size_t count, std::uint64_t offset,
                        unsigned status, int*) {
        auto& slot = *static_cast<Slot*>(context);
        if (slot.call == nullptr || status == LIBNBD_READ_ERROR) return 0;
        const auto length = static_cast<std::uint32_t>(count);
        if (!slot.call->coverage.add(offset, length)) slot.lie = true;
        return 0;
    }
    static int on_completion(void* context, int* error) {
        auto& slot = *static_cast<Slot*>(context);
        slot.wire->complete(slot, *error);
        return 1;  // libnbd forgets it
    }
    void complete(Slot& slot, int error) noexcept {
        slot.error = error;
        slot.next = nullptr;
        (last_done_ != nullptr ? last_done_->next : first_done_) = &slot;
        last_done_ = &slot;
    }

    // ---- Both ways -----------------------------------------------------------------------------

    // After every call of libnbd. Answers what it has completed. False: the connection has ended.
    [[nodiscard]] bool carry_on() {
        nbd_handle* const handle = handle_.get();
        if (death_ == 0 && libnbd().aio_is_closed(handle) == 1) death_ = ECONNRESET;
        if (death_ == 0 && libnbd().aio_is_dead(handle) == 1) death_ = reason();
        while (first_done_ != nullptr) {
            Slot& slot = *first_done_;
            first_done_ = slot.next;
            if (first_done_ == nullptr) last_done_ = nullptr;
            end(slot);
        }
        return death_ == 0;
    }
    void end(Slot& slot) {
        Call* const call = std::exchange(slot.call, nullptr);
        const int error = slot.error;
        const bool lie = slot.lie;
        slot.next = std::exchange(free_, &slot);
        if (call == nullptr) return;
        // The errors of a connection that has ended may be no answers, but its end.
        if (death_ != 0 && error != 0) return;
        const bool whole = call->command != Command::read || call->coverage.complete();
        if (lie || (error == 0 && !whole)) {
            death_ = EPROTO;
            return;
        }
        caller_.answered(*call, IoResult::from_errno(error));
    }
    [[nodiscard]] bool wants(unsigned direction) const noexcept {
        return (libnbd().aio_get_direction(handle_.get()) & direction) != 0;
    }

    // ---- Requests ------------------------------------------------------------------------------

    Task<> send_all(Io& io) {
        while (!ended_) {
            if (first_unsent_ != nullptr) {
                co_await io.round_end();
                if (ended_) break;
                while (first_unsent_ != nullptr && libnbd().aio_is_dead(handle_.get()) != 1)
                    issue();
                if (!carry_on()) break;
            } else if (wants(LIBNBD_AIO_DIRECTION_WRITE)) {
                const IoResult ready = co_await io.poll(socket_.get(), POLLOUT);
                if (!ready.ok() && ready.error() != EINTR) {
                    if (ready.error() != ECANCELED) death_ = ready.error();
                    break;
                }
                if (ended_) break;
                // Meanwhile an answer may have begun, which comes first.
                if (wants(LIBNBD_AIO_DIRECTION_WRITE)) libnbd().aio_notify_write(handle_.get());
                if (!carry_on()) break;
            } else {
                co_await work_;
            }
        }
        if (death_ != 0) hang_up();  // whoever waits for answers hears of it
        co_return IoResult{};
    }

    void issue() noexcept {
        Call& call = *first_unsent_;
        first_unsent_ = call.next_unsent;
        if (first_unsent_ == nullptr) last_unsent_ = nullptr;
        Slot& slot = take_slot();
        slot.call = &call;
        if (hand_over(call, slot) < 0) {
            const int code = libnbd().get_errno();
            complete(slot, code != 0 ? code : EIO);
        }
    }
    Slot& take_slot() {
        if (free_ == nullptr) free_ = &slots_.emplace_back();
        Slot& slot = *free_;
        free_ = slot.next;
        slot = {.wire = this};
        return slot;
    }
    std::int64_t hand_over(const Call& call, Slot& slot) noexcept {
        nbd_handle* const handle = handle_.get();
        const nbd_completion_callback done{
            .callback = on_completion, .user_data = &slot, .free = nullptr};
        const nbd_chunk_callback chunk{.callback = on_chunk, .user_data = &slot, .free = nullptr};
        switch (call.command) {
            case Command::read:
                return libnbd().aio_pread_structured(handle, call.buffer.data(), call.length,
                                                     call.offset, chunk, done, call.flags);
            case Command::write:
                return libnbd().aio_pwrite(handle, call.buffer.data(), call.length, call.offset,
                                           done, call.flags);
            case Command::flush: return libnbd().aio_flush(handle, done, call.flags);
            case Command::trim:
                return libnbd().aio_trim(handle, call.length, call.offset, done, call.flags);
            case Command::write_zeroes:
                return libnbd().aio_zero(handle, call.length, call.offset, done, call.flags);
            case Command::disconnect: break;
        }
        return -1;
    }

    // ---- Answers -------------------------------------------------------------------------------

    Task<> receive_all(Io& io) {
        for (;;) {
            const IoResult ready = co_await io.poll(socket_.get(), POLLIN);
            if (!ready.ok() && ready.error() != EINTR) co_return ready;
            if (death_ == 0) {
                if (wants(LIBNBD_AIO_DIRECTION_READ)) {
                    ++heard_;
                    libnbd().aio_notify_read(handle_.get());
                } else {
                    libnbd().aio_notify_write(handle_.get());
                }
            }
            if (!carry_on()) co_return IoResult::from_errno(death_);
            // What libnbd could not send while an answer came.
            if (wants(LIBNBD_AIO_DIRECTION_WRITE)) work_.give();
        }
    }

    Handle handle_;    // gone when the connection has ended
    const Fd socket_;  // the same as the handle's, which libnbd closes when it likes
    Caller& caller_;
    bool ended_ = false;
    int death_ = 0;  // the errno of the connection's end
    Signal work_;    // there is something to send, or the end
    Call* first_unsent_ = nullptr;
    Call* last_unsent_ = nullptr;
    std::deque<Slot> slots_;
    Slot* free_ = nullptr;
    Slot* first_done_ = nullptr;
    Slot* last_done_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<Wire>> open_tls_wire(Handle handle, Caller& caller) {
    // The server decides what it takes; libnbd is not asked. What newer ones have besides checks
    // stays as it is.
    constexpr unsigned checks = LIBNBD_STRICT_COMMANDS | LIBNBD_STRICT_FLAGS |
                                LIBNBD_STRICT_BOUNDS | LIBNBD_STRICT_ZERO_SIZE |
                                LIBNBD_STRICT_ALIGN;
    libnbd().set_strict_mode(handle.get(), libnbd().get_strict_mode(handle.get()) & ~checks);
    Fd socket(fcntl(libnbd().aio_get_fd(handle.get()), F_DUPFD_CLOEXEC, 3));
    if (!socket.valid()) {
        return std::unexpected(Error{.operation = "take over the connection", .code = errno});
    }
    return std::make_unique<TlsWire>(std::move(handle), std::move(socket), caller);
}

}  // namespace ashlar::nbd
