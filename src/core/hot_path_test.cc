// Nothing on a request's way allocates. A program of its own: it replaces the global operator new
// with one that counts.
#include <array>
#include <atomic>
#include <cerrno>
#include <coroutine>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "core/queue.h"
#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace {

std::atomic<std::uint64_t> allocations = 0;

void* allocate(std::size_t size, std::size_t alignment) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    const std::size_t whole = (size + alignment - 1) / alignment * alignment;
    void* memory = alignment <= alignof(std::max_align_t)
                       ? std::malloc(size == 0 ? 1 : size)
                       : std::aligned_alloc(alignment, whole == 0 ? alignment : whole);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, 1); }
void* operator new[](std::size_t size) { return allocate(size, 1); }
void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;

constexpr int kRequests = 100'000;
constexpr std::uint16_t kDepth = 32;
constexpr std::uint64_t kSize = 16 << 20;

// What coroutine sessions wait for: a round of the test's own.
struct Waiting {
    std::array<std::coroutine_handle<>, kDepth> handles{};
    std::size_t count = 0;

    struct Later {
        Waiting& waiting;
        static bool await_ready() noexcept { return false; }
        void await_suspend(std::coroutine_handle<> handle) noexcept {
            waiting.handles.at(waiting.count++) = handle;
        }
        static void await_resume() noexcept {}
    };
    Later later() noexcept { return Later{*this}; }

    void resume_all() {
        const auto now = handles;
        const std::size_t many = std::exchange(count, 0);
        for (std::size_t i = 0; i < many; ++i) now.at(i).resume();
    }
};

// Two coroutines deep, each in the tag's arena.
class CoroutineSession final : public Session {
public:
    explicit CoroutineSession(Waiting& waiting) : waiting_(waiting) {}
    Task<> serve(Io& io, const Request& request) override {
        const IoResult first = co_await half(io, request.length);
        if (!first.ok()) co_return first;
        co_return co_await half(io, request.length);
    }

private:
    Task<> half(Io&, std::uint64_t length) {
        co_await waiting_.later();
        co_return IoResult::bytes(length / 2);
    }
    Waiting& waiting_;
};

// A frame that no arena of a tag has room for.
class LargeFrameSession final : public Session {
public:
    explicit LargeFrameSession(Waiting& waiting) : waiting_(waiting) {}
    Task<> serve(Io&, const Request& request) override {
        std::array<std::byte, 16384> large{};
        large.back() = std::byte{1};
        co_await waiting_.later();
        co_return IoResult::bytes(large.back() == std::byte{1} ? request.length : 0);
    }

private:
    Waiting& waiting_;
};

class HotPath : public testing::Test {
protected:
    void open(std::shared_ptr<Backend> backend) {
        const QueueConfig config{
            .depth = kDepth, .io_max = 65536, .capabilities = backend->capabilities()};
        queue = Queue::open(config, {.reactor = reactor,
                                     .offload = offload,
                                     .counters = owner->counters,
                                     .device = kernel.device(),
                                     .backend = std::move(backend),
                                     .owner = owner})
                    .value();
        queue->fetch_all();
    }
    void open(std::unique_ptr<Session> session, const Capabilities& capabilities) {
        auto backend = std::make_shared<test::SessionBackend>(std::move(session));
        backend->can = capabilities;
        open(std::move(backend));
    }
    // The kernel delivers requests to all tags in turn, and wants each committed.
    void serve(int requests, Waiting* waiting = nullptr) {
        static constexpr std::array ops = {abi::io_op_read, abi::io_op_write, abi::io_op_read,
                                           abi::io_op_discard, abi::io_op_write_zeroes};
        for (int done = 0; done < requests; done += kDepth) {
            for (std::uint16_t tag = 0; tag < kDepth; ++tag) {
                const auto number = static_cast<std::uint64_t>(done) + tag;
                const auto op = ops.at(number % ops.size());
                kernel.put(0, tag, make_descriptor(op, number * 8 % (kSize / 512), 8));
                ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_ok));
            }
            // As many rounds as the session has steps.
            while (waiting != nullptr && waiting->count > 0) waiting->resume_all();
            ASSERT_EQ(reactor.pending().size(), std::size_t{kDepth});
            for (const auto& commit : reactor.pending()) ASSERT_GE(commit.io.result, 0);
        }
    }
    // Allocations made while serving that many, after a warm-up.
    std::uint64_t allocations_of(int requests, Waiting* waiting = nullptr) {
        serve(10 * kDepth, waiting);
        const std::uint64_t before = allocations;
        serve(requests, waiting);
        return allocations - before;
    }
    void TearDown() override {
        if (!queue) return;
        reactor.close();
        queue->reactor_closed();
    }

    test::FakeCharDevice kernel;
    test::FakeReactor reactor;
    OffloadPool offload;
    std::shared_ptr<test::RecordingOwner> owner = std::make_shared<test::RecordingOwner>();
    std::unique_ptr<Queue> queue;
};

TEST_F(HotPath, TheCounterCounts) {
    const std::uint64_t before = allocations;
    {
        const auto one = std::make_unique<int>(1);
    }
    {
        const std::vector<char> two(100);
    }
    EXPECT_EQ(allocations - before, 2U);
}

TEST_F(HotPath, TheMemoryBackendAllocatesNothing) {
    auto backend = open_memory({.geometry = {.size = kSize}}).value();
    open(backend);
    EXPECT_EQ(allocations_of(kRequests), 0U);
    EXPECT_GE(owner->counted().reads, std::uint64_t{kRequests} * 2 / 5);
    EXPECT_EQ(owner->counted().errors, 0U);
}

TEST_F(HotPath, TheNullBackendAllocatesNothing) {
    auto backend = open_null({.geometry = {.size = kSize}}).value();
    open(backend);
    EXPECT_EQ(allocations_of(kRequests), 0U);
    EXPECT_EQ(owner->counted().errors, 0U);
}

TEST_F(HotPath, CoroutinesAllocateNothing) {
    Waiting waiting;
    open(std::make_unique<CoroutineSession>(waiting), {.discard = true, .write_zeroes = true});
    EXPECT_EQ(allocations_of(kRequests, &waiting), 0U);
    EXPECT_EQ(owner->counted().errors, 0U);
}

TEST_F(HotPath, FailuresAllocateNothing) {
    auto session = std::make_unique<test::ParkingSession>();
    open(std::move(session), {});
    const auto refuse_all = [&] {
        for (int round = 0; round < 1000; ++round) {
            kernel.put(0, 0, make_descriptor(round % 2 == 0 ? abi::io_op_discard : 99, 0, 8));
            ASSERT_TRUE(reactor.complete_tag(0, 0, abi::io_res_ok));
            ASSERT_TRUE(reactor.complete_tag(0, 1, -EAGAIN));
        }
    };
    refuse_all();
    const std::uint64_t before = allocations;
    refuse_all();
    EXPECT_EQ(allocations - before, 0U);
}

TEST_F(HotPath, AFrameTooLargeForTheArenaComesFromTheHeapAndGoesBack) {
    Waiting waiting;
    open(std::make_unique<LargeFrameSession>(waiting), {.discard = true, .write_zeroes = true});
    constexpr int requests = 10 * kDepth;
    EXPECT_EQ(allocations_of(requests, &waiting), std::uint64_t{requests});
    EXPECT_EQ(owner->counted().errors, 0U);
}

}  // namespace
}  // namespace ashlar
