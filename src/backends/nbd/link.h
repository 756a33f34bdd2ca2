// Link: a session's way to its server. It outlives connections: when one is lost it makes another,
// and asks again what had no answer.
//
// Asking again is safe. A read changes nothing. A write, trim or write-zeroes that was carried out
// once is carried out a second time with the same data before anybody was told of the first, and
// the block layer sends nothing that overlaps with it until it was answered. A flush covers what
// was answered before it was asked; that was with the server then, and the flush is answered by a
// server that still is to have it. What is asked again goes in the order of the first time.
//
// The old connection is closed before the next one is made, and what had not left yet never leaves.
// What the server's kernel has already taken is the server's: one that was stuck, and carries out
// requests of the old connection after it has answered newer ones of the next, overwrites newer
// data with older. No client can prevent that; docs/nbd.md says so.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include <ashlar/io.h>
#include <ashlar/nbd.h>
#include <ashlar/task.h>

#include "backends/nbd/call.h"
#include "backends/nbd/handshake.h"
#include "backends/nbd/wire.h"

namespace ashlar::nbd {

// Thread: the queue's, but for the destructor, which may run after that thread's end.
class Link final : private Caller {
public:
    // connection: the first. io: the session's; it, options and about outlive the link.
    Link(Io& io, const NbdOptions& options, const Export& about, Connection connection);
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;
    ~Link();

    // To be awaited: `call` is asked, and its result is there.
    class [[nodiscard]] Answer {
    public:
        Answer(Link& link, Call& call) noexcept : link_(link), call_(call) {}
        [[nodiscard]] bool await_ready() noexcept { return !link_.ask(call_); }
        void await_suspend(std::coroutine_handle<> waiter) noexcept { call_.waiter = waiter; }
        [[nodiscard]] IoResult await_resume() const noexcept { return call_.result; }

    private:
        Link& link_;
        Call& call_;
    };
    Answer answer(Call& call) noexcept { return {*this, call}; }

    // What has no answer, and all that is asked later, ends with ECANCELED soon.
    void cancel() noexcept;
    // Nothing completes any more.
    void close() noexcept;

private:
    using Clock = std::chrono::steady_clock;

    Task<> run(Io& io, Connection connection);
    Task<> serve(Io& io, Connection& connection);
    void note_loss() noexcept;
    Task<> reconnect(Io& io);
    [[nodiscard]] bool is_back();
    Task<> watch(Io& io);
    void be_overdue();

    // False: the result is there already.
    [[nodiscard]] bool ask(Call& call) noexcept;
    void begin(Call& call) noexcept;
    Call* find(std::uint64_t cookie) noexcept override { return calls_.find(cookie); }
    void answered(Call& call, IoResult result) noexcept override;
    void fail_all(int code) noexcept;
    void tell(NbdEvent::Kind kind, std::string text) const;

    const NbdOptions& options_;
    const Export& about_;
    Calls calls_;
    std::unique_ptr<Wire> wire_;
    bool connected_ = false;
    bool silent_ = false;  // the server was, for too long
    int failing_ = 0;      // the errno of all that is asked; 0: none
    std::uint64_t size_;   // of the export when it was looked at last
    std::atomic<bool> ending_ = false;
    std::optional<Result<Connection>> attempt_;  // written by the thread that connects
    std::string last_failure_;
    Clock::time_point begun_{};           // the connection
    Clock::time_point quiet_since_{};     // the server, or the connection has begun since
    Clock::time_point lost_{};            // from when on requests wait for a connection
    std::uint64_t waited_ = 0;            // cookie of the oldest call at the last loss; 0: none
    std::chrono::milliseconds delay_{0};  // before the next attempt
    Task<> running_;                      // the last two: they start at once and use what is above
    Task<> watching_;
};

}  // namespace ashlar::nbd
