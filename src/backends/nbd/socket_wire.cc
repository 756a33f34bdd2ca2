#include "backends/nbd/socket_wire.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "backends/nbd/inbox.h"
#include "backends/nbd/protocol.h"
#include "backends/nbd/signal.h"

namespace ashlar::nbd {
namespace {

// Requests that leave in one message; two pieces each.
constexpr std::size_t kTogether = 64;

// What a pipe takes without waiting for its other end, however small the system made it.
constexpr std::uint32_t kPipeBytes = 4096;

bool has_data(const Call& call) noexcept { return call.command == Command::write; }

class SocketWire final : public Wire {
public:
    SocketWire(Fd socket, Fd zeroes, bool structured, Caller& caller)
        : socket_(std::move(socket)), zeroes_(std::move(zeroes)), inbox_(caller, structured) {}

    Task<> run(Io& io) override {
        Task<> sending = send_all(io);  // NOLINT(misc-const-correctness): it is awaited below
        const IoResult received = co_await receive_all(io);
        if (received.error() != ECANCELED) hang_up();
        ended_ = true;
        work_.give();
        const IoResult sent = co_await sending;
        // If sending failed first, that ended receiving too, which then says less; but a broken
        // pipe is just that.
        const bool says_more =
            received.error() == ECONNRESET && !sent.ok() && sent.error() != EPIPE;
        co_return says_more ? sent : received;
    }

    void send(Call& call) noexcept override {
        if (ended_) return;  // whoever waits for it finds it again
        call.sent = false;
        call.next_unsent = nullptr;
        (last_unsent_ != nullptr ? last_unsent_->next_unsent : first_unsent_) = &call;
        last_unsent_ = &call;
        work_.give();
    }

    void hang_up() noexcept override { shutdown(socket_.get(), SHUT_RDWR); }

    void say_goodbye() noexcept override {
        if (mid_message_) return;
        const RequestBytes bytes = encode({.command = Command::disconnect});
        // A server that does not hear it finds the connection closed.
        static_cast<void>(
            ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    }

private:
    // ---- Requests ------------------------------------------------------------------------------

    Task<> send_all(Io& io) {
        while (!ended_) {
            if (first_unsent_ == nullptr) {
                co_await work_;
                continue;
            }
            co_await io.round_end();
            gather();
            mid_message_ = true;
            while (message_.msg_iovlen != 0) {
                const int flags = MSG_NOSIGNAL | (registered_ != nullptr ? MSG_MORE : 0);
                const IoResult part = co_await io.sendmsg(socket_.get(), message_, flags);
                if (!went(part)) co_return part;
            }
            while (registered_ != nullptr && registered_left_ != 0) {
                const Buffer& all = registered_->buffer;
                const Buffer rest = all.part(all.length() - registered_left_, registered_left_);
                const IoResult part = co_await io.send(socket_.get(), rest);
                if (!went(part)) co_return part;
            }
            mid_message_ = false;
            left(batch_);
        }
        co_return IoResult{};
    }

    // What is unsent, up to the first request whose data only the kernel can reach: that goes
    // after the message.
    void gather() noexcept {
        std::size_t pieces = 0;
        batch_ = 0;
        gone_ = 0;
        registered_ = nullptr;
        while (first_unsent_ != nullptr && batch_ < kTogether && registered_ == nullptr) {
            Call& call = *first_unsent_;
            first_unsent_ = call.next_unsent;
            if (first_unsent_ == nullptr) last_unsent_ = nullptr;
            calls_[batch_] = &call;
            headers_[batch_] = encode({.flags = call.flags,
                                       .command = call.command,
                                       .cookie = call.cookie,
                                       .offset = call.offset,
                                       .length = call.length});
            pieces_[pieces] = {.iov_base = headers_[batch_].data(), .iov_len = kRequestBytes};
            gone_with_[pieces++] = has_data(call) ? batch_ : batch_ + 1;
            ++batch_;
            if (!has_data(call)) continue;
            if (call.buffer.is_memory()) {
                pieces_[pieces] = {.iov_base = call.buffer.data(), .iov_len = call.length};
                gone_with_[pieces++] = batch_;
            } else {
                registered_ = &call;
                registered_left_ = call.length;
            }
        }
        message_ = {};
        message_.msg_iov = pieces_.data();
        message_.msg_iovlen = pieces;
    }

    // False when it failed for good.
    bool went(IoResult part) noexcept {
        if (part.error() == EINTR || part.error() == EAGAIN) return true;
        if (!part.ok()) {
            if (part.error() != ECANCELED) hang_up();
            send_failed_ = true;
            settled_.give();
            return false;
        }
        std::uint64_t count = part.count();
        if (message_.msg_iovlen == 0) {
            registered_left_ -= static_cast<std::uint32_t>(count);
            return true;
        }
        std::size_t gone = gone_;
        while (message_.msg_iovlen != 0 && count >= message_.msg_iov->iov_len) {
            count -= message_.msg_iov->iov_len;
            gone = gone_with_[static_cast<std::size_t>(message_.msg_iov - pieces_.data())];
            ++message_.msg_iov;
            --message_.msg_iovlen;
        }
        if (message_.msg_iovlen != 0) {
            message_.msg_iov->iov_base =
                static_cast<std::byte*>(message_.msg_iov->iov_base) + count;
            message_.msg_iov->iov_len -= count;
        }
        left(gone);
        return true;
    }

    // So many of the batch's calls have left as a whole. A server that does one thing after the
    // other answers these before it takes the others.
    void left(std::size_t calls) noexcept {
        if (gone_ == calls) return;
        while (gone_ < calls) calls_[gone_++]->sent = true;
        settled_.give();
    }

    // ---- Answers -------------------------------------------------------------------------------

    Task<> receive_all(Io& io) {
        for (;;) {
            const Inbox::Want want = inbox_.next();
            using Kind = Inbox::Want::Kind;
            if (want.kind == Kind::broken) co_return IoResult(std::errc::protocol_error);
            if (want.kind == Kind::settle) {
                // A server that answers what it was not asked as a whole yet takes the rest of it.
                if (send_failed_) co_return IoResult(std::errc::connection_reset);
                if (!is_leaving(*want.call)) co_return IoResult(std::errc::protocol_error);
                co_await settled_;
                continue;
            }
            IoResult part;
            if (want.kind == Kind::zeroes) {
                part = co_await io.read(zeroes_.get(), want.into, 0);
            } else if (want.kind == Kind::move) {
                part = co_await move(io, want.from, want.into);
            } else {
                part = co_await io.recv(socket_.get(), want.into);
            }
            if (part.error() == EINTR || part.error() == EAGAIN) continue;
            if (!part.ok()) co_return part;
            if (part.count() == 0) co_return IoResult(std::errc::connection_reset);
            inbox_.came(static_cast<std::uint32_t>(part.count()));
        }
    }

    // Bytes that came together with others' go through a pipe, which has room for them: that is how
    // memory gets to where only the kernel reaches.
    Task<> move(Io& io, Buffer from, Buffer into) {
        if (!pipe_[0].valid()) {
            std::array<int, 2> ends{};
            if (pipe2(ends.data(), O_CLOEXEC) != 0) co_return IoResult::from_errno(errno);
            pipe_ = {Fd(ends[0]), Fd(ends[1])};
        }
        const std::uint32_t piece = std::min(from.length(), kPipeBytes);
        const IoResult wrote = co_await io.write(pipe_[1].get(), from.part(0, piece), 0);
        if (!wrote.ok()) co_return wrote;
        for (std::uint32_t done = 0; done < wrote.count();) {
            const auto left = static_cast<std::uint32_t>(wrote.count()) - done;
            const IoResult read = co_await io.read(pipe_[0].get(), into.part(done, left), 0);
            if (read.error() == EINTR || read.error() == EAGAIN) continue;
            if (!read.ok()) co_return read;
            done += static_cast<std::uint32_t>(read.count());
        }
        co_return wrote;
    }

    [[nodiscard]] bool is_leaving(const Call& call) const noexcept {
        for (std::size_t i = gone_; i < batch_; ++i) {
            if (calls_[i] == &call) return true;
        }
        return false;
    }

    const Fd socket_;
    const Fd zeroes_;         // /dev/zero
    std::array<Fd, 2> pipe_;  // see move(); made when it is needed
    Inbox inbox_;
    bool ended_ = false;
    Signal work_;     // there is something to send, or the end
    Signal settled_;  // a call has left
    Call* first_unsent_ = nullptr;
    Call* last_unsent_ = nullptr;
    // The message that is leaving.
    bool mid_message_ = false;
    bool send_failed_ = false;
    std::size_t batch_ = 0;  // its calls
    std::size_t gone_ = 0;   // those of them that have left as a whole
    std::array<Call*, kTogether> calls_{};
    std::array<RequestBytes, kTogether> headers_{};
    std::array<iovec, 2 * kTogether> pieces_{};
    std::array<std::size_t, 2 * kTogether> gone_with_{};  // with each piece, what gone_ becomes
    msghdr message_{};
    Call* registered_ = nullptr;  // the last one, if its data goes after the message
    std::uint32_t registered_left_ = 0;
};

}  // namespace

Result<std::unique_ptr<Wire>> open_socket_wire(Fd socket, bool structured, Caller& caller) {
    Fd zeroes(open("/dev/zero", O_RDONLY | O_CLOEXEC));
    if (!zeroes.valid()) {
        return std::unexpected(Error{.operation = "open /dev/zero", .code = errno});
    }
    return std::make_unique<SocketWire>(std::move(socket), std::move(zeroes), structured, caller);
}

}  // namespace ashlar::nbd
