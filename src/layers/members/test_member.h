// TestMember: a backend under a test's control. It remembers requests, and answers them at once or
// when the test says so. For one thread.
#pragma once

#include <algorithm>
#include <cerrno>
#include <coroutine>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <ashlar/backend.h>

namespace ashlar::test {

class TestMember final : public Backend {
public:
    struct Parked {
        const Request* request = nullptr;  // must stay valid until it is answered
        std::coroutine_handle<> waiter = nullptr;
        IoResult* result = nullptr;
    };

    explicit TestMember(const Geometry& geometry, const Capabilities& capabilities = {})
        : can(capabilities), content(geometry.size), geometry_(geometry) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "member"; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] Capabilities capabilities() const override { return can; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return access; }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override { return copied; }
    [[nodiscard]] std::vector<BackendCounter> counters() const override { return counted; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        if (open_error != 0) {
            return std::unexpected(Error{.operation = "open member", .code = open_error});
        }
        return std::make_unique<MemberSession>(*this);
    }

    // Answers the parked request at `place`, which takes effect now.
    void resume(std::size_t place) {
        const Parked one = parked.at(place);
        parked.erase(parked.begin() + static_cast<std::ptrdiff_t>(place));
        *one.result = apply(*one.request);
        one.waiter.resume();
    }

    Capabilities can;
    DataAccess access = DataAccess::sees;
    std::uint32_t copied = 0;
    std::vector<BackendCounter> counted;
    int open_error = 0;
    bool parks = false;
    std::function<IoResult(const Request&)> answer;  // an error: the request does nothing
    std::vector<Request> requests;
    std::vector<Parked> parked;
    std::vector<std::byte> content;
    int closed = 0;  // sessions

private:
    class MemberSession final : public Session {
    public:
        explicit MemberSession(TestMember& member) : member_(member) {}
        Task<> serve(Io& io, const Request& request) override {
            member_.requests.push_back(request);
            if (!member_.parks) return member_.apply(request);
            return park(io, request);
        }
        void close() noexcept override { ++member_.closed; }

    private:
        struct Parking {
            TestMember& member;
            const Request& request;
            IoResult result{};
            static bool await_ready() noexcept { return false; }
            void await_suspend(std::coroutine_handle<> waiter) {
                member.parked.push_back({&request, waiter, &result});
            }
            [[nodiscard]] IoResult await_resume() const noexcept { return result; }
        };
        Task<> park(Io&, const Request& request) { co_return co_await Parking{member_, request}; }
        TestMember& member_;
    };

    IoResult apply(const Request& request) {
        const IoResult result = answer ? answer(request) : IoResult{};
        if (!result.ok()) return result;
        // Registered buffers have no bytes here.
        std::byte* data = request.buffer.is_memory() ? request.buffer.data() : nullptr;
        std::byte* at = content.data() + request.offset;
        switch (request.op) {
            case Op::read:
                if (data != nullptr) std::memcpy(data, at, request.length);
                break;
            case Op::write:
                if (data != nullptr) std::memcpy(at, data, request.length);
                break;
            case Op::discard:
            case Op::write_zeroes: std::memset(at, 0, request.length); break;
            default: break;
        }
        return result;
    }

    const Geometry geometry_;
};

}  // namespace ashlar::test
