#include "backends/nbd/socket_wire.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "backends/nbd/hang_up.h"
#include "backends/nbd/inbox.h"
#include "backends/nbd/protocol.h"
#include "backends/nbd/signal.h"

namespace ashlar::nbd {
namespace {

// Requests that leave together; two pieces each.
constexpr std::size_t kTogether = 64;
constexpr std::size_t kPartsMost = 1 + kFollowersMost;

// What a pipe takes without waiting for its other end, however small the system made it.
constexpr std::uint32_t kPipeBytes = 4096;

bool has_data(const Call& call) noexcept { return call.command == Command::write; }

// What leaves by one operation: some pieces of memory, or the rest of a call's data that only the
// kernel can reach.
struct Part {
    msghdr message{};
    const Call* registered = nullptr;
    std::uint64_t left = 0;  // bytes
    std::size_t gone = 0;    // with registered data: what SocketWire::gone_ becomes
    bool more = false;       // registered data follows

    [[nodiscard]] bool is_registered() const noexcept { return registered != nullptr; }
    // flags: of messages; the kernel sends registered data as a write, which knows none.
    [[nodiscard]] Submission submission(int socket, int flags) const noexcept {
        if (!is_registered()) {
            return {.kind = Submission::Kind::sendmsg,
                    .fd = socket,
                    .address = &message,
                    .flags = static_cast<std::uint32_t>(flags | (more ? MSG_MORE : 0))};
        }
        const Buffer& all = registered->buffer;
        const auto rest = static_cast<std::uint32_t>(left);
        return {.kind = Submission::Kind::send,
                .fd = socket,
                .buffer = all.part(all.length() - rest, rest)};
    }
};

class SocketWire final : public Wire {
public:
    SocketWire(Fd socket, Fd zeroes, bool structured, Caller& caller)
        : socket_(std::move(socket)), zeroes_(std::move(zeroes)), inbox_(caller, structured) {}

    Task<> run(Io& io) override {
        Task<> sending = send_all(io);  // NOLINT(misc-const-correctness): it is awaited below
        const IoResult received = co_await receive_all(io);
        // What has left in part cannot be gone on with; and of what waits for its turn to be sent,
        // cancelling ends only the first.
        if (received.error() != ECANCELED || mid_message_) hang_up();
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

    void hang_up() noexcept override { nbd::hang_up(socket_.get()); }

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
            // What the socket has no room for is waited for, one part after the other.
            bool full = false;
            while (first_part_ != parts_end_) {
                IoResult sent{};
                if (full) {
                    const Part& part = parts_[first_part_];
                    sent = co_await IoOperation(io.scope(),
                                                part.submission(socket_.get(), MSG_NOSIGNAL));
                    if (!went(sent)) co_return sent;
                    continue;
                }
                full = true;  // if anything is left
                // If more is to be sent than fits here, that cannot wait for an answer to this.
                const bool all = parts_end_ == 1 && first_unsent_ == nullptr;
                if (const Part& part = parts_[0]; all && !part.is_registered()) {
                    sent = co_await io.send_at_once(socket_.get(), part.message, part.left,
                                                    MSG_NOSIGNAL);
                    if (!went(sent)) co_return sent;
                    continue;
                }
                start_parts(io);
                bool on = true;
                for (std::size_t i = 0; i < parts_end_; ++i) {
                    // NOLINTNEXTLINE(misc-const-correctness): awaiting it changes it.
                    IoOperation& operation = *operations_[i];
                    const IoResult result = co_await operation;
                    if (!on) continue;  // it was not started
                    if (!went(result)) sent = result;
                    on = first_part_ > i;
                }
                if (!sent.ok()) co_return sent;
            }
            mid_message_ = false;
        }
        co_return IoResult{};
    }

    // Each part leaves when the one before it has left as a whole. A message that the socket has no
    // room for is told at once: a server that takes nothing meanwhile may have answered some of it.
    void start_parts(Io& io) {
        for (std::size_t i = 0; i < parts_end_; ++i) {
            Submission submission =
                parts_[i].submission(socket_.get(), MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
            submission.followers = static_cast<std::uint8_t>(parts_end_ - 1 - i);
            operations_[i].emplace(io.scope(), submission).start();
        }
    }

    // What is unsent, in parts: data that only the kernel can reach is one of its own.
    void gather() noexcept {
        pieces_end_ = 0;
        batch_ = 0;
        gone_ = 0;
        first_part_ = 0;
        parts_end_ = 0;
        bool open = false;  // the last part can take more pieces
        while (first_unsent_ != nullptr && batch_ < kTogether && parts_end_ + 2 <= kPartsMost) {
            Call& call = *first_unsent_;
            first_unsent_ = call.next_unsent;
            if (first_unsent_ == nullptr) last_unsent_ = nullptr;
            calls_[batch_] = &call;
            headers_[batch_] = encode({.flags = call.flags,
                                       .command = call.command,
                                       .cookie = call.cookie,
                                       .offset = call.offset,
                                       .length = call.length});
            if (!open) begin_message();
            open = true;
            add_piece(headers_[batch_].data(), kRequestBytes, has_data(call) ? batch_ : batch_ + 1);
            ++batch_;
            if (!has_data(call)) continue;
            if (call.buffer.is_memory()) {
                add_piece(call.buffer.data(), call.length, batch_);
                continue;
            }
            parts_[parts_end_ - 1].more = true;
            parts_[parts_end_++] = {.registered = &call, .left = call.length, .gone = batch_};
            open = false;
        }
    }

    void begin_message() noexcept {
        Part& part = parts_[parts_end_++];
        part = {};
        part.message.msg_iov = pieces_.data() + pieces_end_;
    }

    // gone: what gone_ becomes with it.
    void add_piece(void* memory, std::size_t length, std::size_t gone) noexcept {
        Part& part = parts_[parts_end_ - 1];
        gone_with_[pieces_end_] = gone;
        pieces_[pieces_end_++] = {.iov_base = memory, .iov_len = length};
        ++part.message.msg_iovlen;
        part.left += length;
    }

    // How sending the first part ended. False when it failed for good.
    bool went(IoResult sent) noexcept {
        if (sent.error() == EINTR || sent.error() == EAGAIN) return true;
        if (!sent.ok()) {
            if (sent.error() != ECANCELED) hang_up();
            send_failed_ = true;
            settled_.give();
            return false;
        }
        Part& part = parts_[first_part_];
        std::uint64_t count = sent.count();
        part.left -= count;
        if (part.left == 0) ++first_part_;
        if (part.is_registered()) {
            if (part.left == 0) left(part.gone);
            return true;
        }
        msghdr& message = part.message;
        std::size_t gone = gone_;
        while (message.msg_iovlen != 0 && count >= message.msg_iov->iov_len) {
            count -= message.msg_iov->iov_len;
            gone = gone_with_[static_cast<std::size_t>(message.msg_iov - pieces_.data())];
            ++message.msg_iov;
            --message.msg_iovlen;
        }
        if (message.msg_iovlen != 0) {
            message.msg_iov->iov_base = static_cast<std::byte*>(message.msg_iov->iov_base) + count;
            message.msg_iov->iov_len -= count;
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
            heard_ += part.count();
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
    std::size_t pieces_end_ = 0;
    std::array<Part, kPartsMost> parts_{};
    std::array<std::optional<IoOperation>, kPartsMost> operations_;  // of the parts
    std::size_t first_part_ = 0;                                     // that has not left
    std::size_t parts_end_ = 0;
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
