// Sessions, a backend that hands them out, and a queue's owner, that remember what happened.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <ashlar/backend.h>

#include "core/queue.h"

namespace ashlar::test {

class RecordingOwner final : public QueueOwner {
public:
    void queue_opened() noexcept override { ++opened; }
    void queue_left(std::uint32_t) noexcept override { ++lefts; }
    void queue_home(std::uint32_t thread) noexcept override { homes.push_back(thread); }
    void queue_failed(std::uint32_t, Error error) noexcept override {
        failures.push_back(std::move(error));
    }
    void queue_closed() noexcept override {
        ++closed;
        if (on_closed) on_closed();
    }
    [[nodiscard]] QueueMetrics counted() const {
        QueueMetrics sum;
        metrics.add_to(sum);
        return sum;
    }

    int opened = 0;
    int closed = 0;
    int lefts = 0;
    std::vector<std::uint32_t> homes;
    std::vector<Error> failures;
    std::function<void()> on_closed;
    LiveMetrics metrics{true};  // lives as long as the owner, as a queue wants it
};

// Answers at once with what `answer` says; names the memory that `place` says.
class RecordingSession final : public Session {
public:
    Task<> serve(Io&, const Request& request) override {
        requests.push_back(request);
        return answer(request);
    }
    [[nodiscard]] std::byte* locate(const Request& request) noexcept override {
        located.push_back(request);
        return place ? place(request) : nullptr;
    }

    std::vector<Request> requests;
    std::vector<Request> located;
    std::function<IoResult(const Request&)> answer = [](const Request& request) {
        return IoResult::bytes(request.length);
    };
    std::function<std::byte*(const Request&)> place;
};

// Parks every request until the test resumes it.
class ParkingSession final : public Session {
public:
    struct Parked {
        Request request;
        std::coroutine_handle<> waiter;
        IoResult* result;
        std::size_t arena_used;  // with this request's frame
    };

    Task<> serve(Io& io, const Request& request) override {
        co_return co_await Parking{*this, io, request};
    }

    // Ends the oldest parked request of a tag. False when the tag has none.
    [[nodiscard]] bool resume(std::uint16_t tag, IoResult result) {
        const auto at =
            std::ranges::find_if(parked, [&](const Parked& one) { return one.request.tag == tag; });
        if (at == parked.end()) return false;
        const Parked one = *at;
        parked.erase(at);
        *one.result = result;
        one.waiter.resume();
        return true;
    }

    std::vector<Parked> parked;

private:
    struct Parking {
        ParkingSession& session;
        Io& io;
        const Request& request;
        IoResult result{};

        static bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<> waiter) {
            session.parked.push_back({request, waiter, &result, io.arena().used()});
        }
        [[nodiscard]] IoResult await_resume() const noexcept { return result; }
    };
};

// Hands out the one session that the test has prepared; without one it has the error.
class SessionBackend final : public Backend {
public:
    explicit SessionBackend(std::unique_ptr<Session> session) : session_(std::move(session)) {}
    explicit SessionBackend(Error error) : error_(std::move(error)) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "prepared"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = std::uint64_t{1} << 40}; }
    [[nodiscard]] Capabilities capabilities() const override { return can; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return access; }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override { return copied; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        session_io = &io;
        if (!session_) return std::unexpected(error_);
        return std::move(session_);
    }

    Capabilities can{};
    DataAccess access = DataAccess::sees;
    std::uint32_t copied = 0;
    Io* session_io = nullptr;  // as given to open_session

private:
    std::unique_ptr<Session> session_;
    Error error_{.operation = "open session", .code = EIO};
};

}  // namespace ashlar::test
