// Sessions and a queue's owner that remember what happened to them.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <ashlar/backend.h>

#include "core/queue.h"

namespace ashlar::test {

class RecordingOwner final : public QueueOwner {
public:
    void queue_opened() noexcept override { ++opened; }
    void queue_home(std::uint16_t index) noexcept override { homes.push_back(index); }
    void queue_failed(std::uint16_t, Error error) noexcept override {
        failures.push_back(std::move(error));
    }
    void queue_closed() noexcept override {
        ++closed;
        if (on_closed) on_closed();
    }

    int opened = 0;
    int closed = 0;
    std::vector<std::uint16_t> homes;
    std::vector<Error> failures;
    std::function<void()> on_closed;
    LiveCounters counters;  // lives as long as the owner, as a queue wants it
};

// Answers at once with what `answer` says.
class RecordingSession final : public Session {
public:
    Task<> serve(Io&, const Request& request) override {
        requests.push_back(request);
        return answer(request);
    }

    std::vector<Request> requests;
    std::function<IoResult(const Request&)> answer = [](const Request& request) {
        return IoResult::bytes(request.length);
    };
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

}  // namespace ashlar::test
