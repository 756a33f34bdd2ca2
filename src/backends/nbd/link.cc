#include "backends/nbd/link.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "backends/nbd/socket_wire.h"
#include "backends/nbd/tls_wire.h"

namespace ashlar::nbd {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstDelay{10};
constexpr milliseconds kLongestDelay{1000};
// How often it is looked whether the server is silent, of the time it may be.
constexpr int kLooks = 4;
constexpr milliseconds kShortestTick{1};
constexpr milliseconds kLongestTick{1000};

std::string text(int code) { return std::generic_category().message(code); }

Result<std::unique_ptr<Wire>> open_wire(Connection connection, Caller& caller) {
    if (connection.tls != nullptr) return open_tls_wire(std::move(connection.tls), caller);
    return open_socket_wire(std::move(connection.socket), connection.structured, caller);
}

// The disk is what it was, though perhaps longer.
bool is_same(const Export& was, Export now) {
    if (now.size < was.size) return false;
    now.size = was.size;
    return now == was;
}

}  // namespace

Link::Link(Io& io, const NbdOptions& options, const Export& about, Connection connection)
    : options_(options), about_(about), size_(about.size) {
    running_ = run(io, std::move(connection));
    watching_ = watch(io);
}

Link::~Link() = default;

void Link::tell(NbdEvent::Kind kind, std::string text) const {
    if (options_.on_event) options_.on_event({.kind = kind, .text = std::move(text)});
}

// ---- Calls -------------------------------------------------------------------------------------

bool Link::ask(Call& call) noexcept {
    if (failing_ != 0) [[unlikely]] {
        call.result = IoResult::from_errno(failing_);
        return false;
    }
    calls_.add(call);
    if (connected_) begin(call);
    return true;
}

void Link::begin(Call& call) noexcept {
    if (call.command == Command::read) call.coverage = Coverage(call.offset, call.length);
    call.error = 0;
    call.errors = 0;
    wire_->send(call);
}

void Link::answered(Call& call, IoResult result) noexcept {
    // A server that says so ends all its connections: the next one shall answer.
    if (result.error() == ESHUTDOWN && options_.reconnect.count() > 0) return wire_->hang_up();
    calls_.remove(call);
    call.result = result;
    call.waiter.resume();
}

void Link::fail_all(int code) noexcept {
    while (Call* const call = calls_.first()) {
        calls_.remove(*call);
        call->result = IoResult::from_errno(code);
        call->waiter.resume();
    }
}

void Link::cancel() noexcept {
    failing_ = ECANCELED;
    ending_ = true;
    if (connected_) return wire_->hang_up();
    fail_all(ECANCELED);
}

// By now nothing runs: a connection that had not ended before was cancelled.
void Link::close() noexcept {
    if (wire_ != nullptr) wire_->say_goodbye();
}

// ---- Connections -------------------------------------------------------------------------------

Task<> Link::run(Io& io, Connection first) {
    Connection connection = std::move(first);
    for (;;) {
        const IoResult ended = co_await serve(io, connection);
        connected_ = false;
        if (ended.error() == ECANCELED) co_return ended;
        wire_.reset();  // by that a server that still talks hears of the end
        note_loss();
        const int code = std::exchange(silent_, false) ? ETIMEDOUT : ended.error();
        if (failing_ == 0 && options_.reconnect.count() == 0) {
            failing_ = code;
            tell(NbdEvent::Kind::lost,
                 "the connection is lost, every request fails: " + text(code));
        }
        if (failing_ != 0) {
            fail_all(failing_);
            co_return ended;
        }
        tell(NbdEvent::Kind::lost, "the connection is lost, requests wait: " + text(code));
        const IoResult back = co_await reconnect(io);
        if (!back.ok()) co_return back;
        connection = std::move(**attempt_);
        attempt_.reset();
    }
}

// A connection that ends at once, or on which what waits got no further, is no better than none:
// there is a rest before the next one, and the time that requests may wait goes on.
void Link::note_loss() noexcept {
    const Clock::time_point now = Clock::now();
    if (now - begun_ > delay_) delay_ = milliseconds(0);
    const Call* const oldest = calls_.first();
    const std::uint64_t waits = oldest != nullptr ? oldest->cookie : 0;
    if (waits == 0 || waits != waited_) lost_ = now;
    waited_ = waits;
}

// Until the connection ends.
Task<> Link::serve(Io& io, Connection& connection) {
    begun_ = quiet_since_ = Clock::now();
    auto wire = open_wire(std::move(connection), *this);
    if (!wire) co_return IoResult::from_errno(wire.error().code);
    wire_ = std::move(*wire);
    connected_ = true;
    for (Call* call = calls_.first(); call != nullptr; call = call->after) begin(*call);
    const IoResult end = co_await wire_->run(io);
    co_return end;
}

// Until there is another connection to the same export, or the session ends.
Task<> Link::reconnect(Io& io) {
    last_failure_.clear();
    for (;;) {
        if (delay_.count() > 0) {
            const IoResult slept = co_await io.sleep(delay_);
            if (!slept.ok()) break;
        }
        delay_ = std::clamp(delay_ * 2, kFirstDelay, kLongestDelay);
        const auto call = [this]() noexcept {
            attempt_ = connect(options_.uri, options_.timeout, ending_);
            return IoResult();
        };
        const IoResult tried = co_await io.offload(call);
        if (!tried.ok() || ending_) break;
        if (is_back()) co_return IoResult();
        attempt_.reset();  // a server that has one client at a time waits for that
    }
    if (failing_ == ECANCELED) fail_all(ECANCELED);
    co_return IoResult(std::errc::operation_canceled);
}

// Whether what was attempted is what was lost.
bool Link::is_back() {
    std::string failure;
    if (!*attempt_) {
        failure = attempt_->error().message();
    } else if (!is_same(about_, (*attempt_)->about)) {
        failure = "the export is not what it was: its size, blocks or abilities have changed";
    }
    if (!failure.empty()) {
        if (failure != last_failure_) tell(NbdEvent::Kind::failed, failure);
        last_failure_ = std::move(failure);
        return false;
    }
    failing_ = 0;
    tell(NbdEvent::Kind::back, "connected again");
    if (const std::uint64_t size = (*attempt_)->about.size; size != std::exchange(size_, size)) {
        tell(NbdEvent::Kind::resized, "the export has " + std::to_string(size) +
                                          " bytes now; the disk keeps its " +
                                          std::to_string(about_.size));
    }
    return true;
}

// Looks at the time: of a server that is silent, and of requests that wait for a connection.
Task<> Link::watch(Io& io) {
    const milliseconds shorter = options_.reconnect.count() == 0
                                     ? options_.timeout
                                     : std::min(options_.timeout, options_.reconnect);
    const milliseconds tick = std::clamp(shorter / kLooks, kShortestTick, kLongestTick);
    std::uint64_t heard = 0;  // by the last look
    bool owed = false;
    for (;;) {
        const IoResult slept = co_await io.sleep(tick);
        if (!slept.ok()) {
            ending_ = true;
            co_return slept;
        }
        const Clock::time_point now = Clock::now();
        if (!connected_) {
            if (failing_ == 0 && now - lost_ >= options_.reconnect) be_overdue();
            continue;
        }
        const bool owes = calls_.first() != nullptr;
        if (!owed || !owes || wire_->heard() != heard) {
            owed = owes;
            heard = wire_->heard();
            quiet_since_ = now;
        } else if (now - quiet_since_ >= options_.timeout) {
            silent_ = true;
            wire_->hang_up();
        }
    }
}

void Link::be_overdue() {
    tell(NbdEvent::Kind::overdue, "no connection in time: requests fail until there is one");
    failing_ = ETIMEDOUT;
    fail_all(ETIMEDOUT);
}

}  // namespace ashlar::nbd
