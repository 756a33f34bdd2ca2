// Nothing on a request's way allocates. A program of its own: it replaces the global operator new
// with one that counts.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <ashlar/backends.h>

#include "core/queue.h"
#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/ring_runner.h"
#include "support/system_calls.h"
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
        const IoResult second = co_await half(io, request.length);
        if (!second.ok()) co_return second;
        co_return IoResult::bytes(first.count() + second.count());
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

// A queue over a fake reactor, which the test serves requests to by the steps of its data path.
class HotPath : public testing::Test {
protected:
    void open(std::shared_ptr<Backend> backend) {
        config.access = backend->data_access();
        config.capabilities = backend->capabilities();
        queue = Queue::open(config, {.reactor = reactor,
                                     .offload = offload,
                                     .metrics = owner->metrics,
                                     .device = kernel.device(),
                                     .backend = std::move(backend),
                                     .owner = owner})
                    .value();
        queue->fetch_all();
        ASSERT_EQ(reactor.complete_first(Kind::batch_command, 0), batch());
        for (std::uint16_t tag = 0; tag < kDepth; ++tag) {
            if (config.data_path != DataPath::user_copy) break;
            kernel.put_data(0, tag, std::vector<std::byte>(4096));
        }
    }
    void open(std::unique_ptr<Session> session, const Capabilities& capabilities) {
        auto backend = std::make_shared<test::SessionBackend>(std::move(session));
        backend->can = capabilities;
        if (config.zero_copy()) backend->access = DataAccess::routes;
        open(std::move(backend));
    }
    [[nodiscard]] bool batch() const { return config.commands == CommandStyle::batch; }

    // The kernel delivers requests to all tags in turn, and wants each committed.
    void serve(int requests, Waiting* waiting = nullptr) {
        static constexpr std::array ops = {abi::io_op_read, abi::io_op_write, abi::io_op_read,
                                           abi::io_op_discard, abi::io_op_write_zeroes};
        for (int done = 0; done < requests; done += kDepth) {
            for (std::uint16_t tag = 0; tag < kDepth; ++tag) {
                const auto number = static_cast<std::uint64_t>(done) + tag;
                const auto op = ops.at(number % ops.size());
                kernel.put(0, tag, make_descriptor(op, number * 8 % (kSize / 512), 8));
                if (!batch()) deliver(tag, op);
            }
            if (batch()) reactor.deliver(kTags);
            register_buffers();
            // As many rounds as the session has steps.
            while (waiting != nullptr && waiting->count > 0) waiting->resume_all();
            while (reactor.complete_first(Kind::submission, 4096)) {
            }
            check_commits();
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
        queue->thread_ends();
        reactor.close();
    }

    using Kind = test::FakeReactor::Kind;
    QueueConfig config{.depth = kDepth, .io_max = 65536};
    test::FakeCharDevice kernel;
    test::FakeReactor reactor;
    OffloadPool offload;
    std::shared_ptr<test::RecordingOwner> owner = std::make_shared<test::RecordingOwner>();
    std::unique_ptr<Queue> queue;

private:
    void deliver(std::uint16_t tag, std::uint8_t op) {
        if (config.data_path == DataPath::get_data && op == abi::io_op_write) {
            ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_need_get_data));
        }
        ASSERT_TRUE(reactor.complete_tag(0, tag, abi::io_res_ok));
    }
    void register_buffers() {
        if (config.data_path != DataPath::zero_copy_manual) return;
        for (std::uint16_t tag = 0; tag < kDepth; ++tag) {
            const auto* command = reactor.find(0, tag);
            if (command == nullptr || command->opcode != abi::u_io_register_io_buf) continue;
            ASSERT_TRUE(reactor.complete_tag(0, tag, 0));
        }
    }
    void check_commits() {
        reactor.begin_round();
        reactor.drop_silent();
        if (batch()) {
            ASSERT_EQ(reactor.pending().size(), 2U);  // a commit and the fetch
            const auto& commit = reactor.find(Kind::batch_command)->batch;
            ASSERT_EQ(commit.nr_elem, kDepth);
            ASSERT_TRUE(
                reactor.complete_first(Kind::batch_command, commit.nr_elem * commit.elem_bytes));
            return;
        }
        ASSERT_EQ(reactor.pending().size(), std::size_t{kDepth});
        for (const auto& commit : reactor.pending()) ASSERT_GE(commit.io.result, 0);
    }

    static constexpr std::array<std::uint16_t, kDepth> kTags = [] {
        std::array<std::uint16_t, kDepth> tags{};
        for (std::uint16_t tag = 0; tag < kDepth; ++tag) tags[tag] = tag;
        return tags;
    }();
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

// Every data path with every kind of commands that it goes with.
struct Way {
    DataPath path = DataPath::copy;
    CommandStyle commands = CommandStyle::per_io;
};
std::string name_of(const testing::TestParamInfo<Way>& info) {
    std::string text =
        std::string(name(info.param.path)) + "_" + std::string(name(info.param.commands));
    std::ranges::replace(text, '-', '_');
    return text;
}
class HotPathOf : public HotPath, public testing::WithParamInterface<Way> {
protected:
    HotPathOf() {
        config.data_path = GetParam().path;
        config.commands = GetParam().commands;
    }
    void expect_all_served() {
        EXPECT_GE(owner->counted()[Op::read].count, std::uint64_t{kRequests} * 2 / 5);
        EXPECT_EQ(owner->counted().errors(), 0U);
        EXPECT_TRUE(owner->failures.empty());
    }
};

TEST_P(HotPathOf, CoroutinesAllocateNothing) {
    Waiting waiting;
    open(std::make_unique<CoroutineSession>(waiting), {.discard = true, .write_zeroes = true});
    EXPECT_EQ(allocations_of(kRequests, &waiting), 0U);
    expect_all_served();
}

TEST_P(HotPathOf, TheNullBackendAllocatesNothing) {
    open(open_null({.geometry = {.size = kSize}}).value());
    EXPECT_EQ(allocations_of(kRequests), 0U);
    expect_all_served();
}

// It works on the bytes: no zero copy.
class HeldHotPathOf : public HotPathOf {};
TEST_P(HeldHotPathOf, TheMemoryBackendAllocatesNothing) {
    open(open_memory({.geometry = {.size = kSize}}).value());
    EXPECT_EQ(allocations_of(kRequests), 0U);
    expect_all_served();
}

const auto kCopying = testing::Values(
    Way{DataPath::copy, CommandStyle::per_io}, Way{DataPath::user_copy, CommandStyle::per_io},
    Way{DataPath::get_data, CommandStyle::per_io}, Way{DataPath::copy, CommandStyle::batch},
    Way{DataPath::user_copy, CommandStyle::batch});
INSTANTIATE_TEST_SUITE_P(Copying, HotPathOf, kCopying, name_of);
INSTANTIATE_TEST_SUITE_P(Copying, HeldHotPathOf, kCopying, name_of);
INSTANTIATE_TEST_SUITE_P(ZeroCopy, HotPathOf,
                         testing::Values(Way{DataPath::zero_copy, CommandStyle::per_io},
                                         Way{DataPath::zero_copy_manual, CommandStyle::per_io},
                                         Way{DataPath::zero_copy, CommandStyle::batch},
                                         Way{DataPath::zero_copy_manual, CommandStyle::batch}),
                         name_of);

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
    EXPECT_EQ(owner->counted().errors(), 0U);
}

// ---- On a real ring ----------------------------------------------------------------------------

// Its requests' data is a file's, which the ring reads.
class FileSession final : public Session {
public:
    explicit FileSession(int file) : file_(file) {}
    Task<> serve(Io& io, const Request& request) override {
        const IoResult read = co_await io.read(file_, request.buffer, request.offset);
        if (read.ok() && read.count() != request.length) co_return std::errc::io_error;
        co_return read;
    }

private:
    int file_;
};

// A queue on a real ring whose kernel is /dev/null: it answers every command at once, so that the
// same requests come again and again.
class RingPath : public testing::Test {
protected:
    // On the thread that will serve.
    void open() {
        const std::vector<char> data(1 << 20, 'x');
        ASSERT_EQ(write(file.get(), data.data(), data.size()), 1 << 20);
        for (std::uint16_t tag = 0; tag < kDepth; ++tag) {
            kernel.put(0, tag, make_descriptor(abi::io_op_read, tag * 8U, 8));
        }
        reactor = open_uring_reactor({.entries = 2 * kDepth, .files = 1}).value();
        auto backend =
            std::make_shared<test::SessionBackend>(std::make_unique<FileSession>(file.get()));
        queue = Queue::open({.depth = kDepth, .io_max = 65536}, {.reactor = *reactor,
                                                                 .offload = offload,
                                                                 .metrics = owner->metrics,
                                                                 .device = kernel.device(),
                                                                 .backend = std::move(backend),
                                                                 .owner = owner})
                    .value();
        // The slot that the queue's commands name.
        const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
        reactor->unregister_file(queue->file());
        ASSERT_EQ(reactor->register_file(null.get()).value(), queue->file());
        queue->fetch_all();
    }
    void rounds(int count) {
        for (int i = 0; i < count; ++i) ASSERT_EQ(reactor->run_once(std::nullopt), 0);
    }
    void close() {
        queue->thread_ends();
        reactor->close();
        queue.reset();
        reactor.reset();
    }

    Fd file{memfd_create("data", MFD_CLOEXEC)};
    test::FakeCharDevice kernel;
    OffloadPool offload;
    std::shared_ptr<test::RecordingOwner> owner = std::make_shared<test::RecordingOwner>();
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<Queue> queue;
};

TEST_F(RingPath, AllocatesNothing) {
    open();
    rounds(100);
    std::uint64_t served = owner->counted()[Op::read].count;
    const std::uint64_t wanted = served + kRequests;
    while (served < wanted) {
        const std::uint64_t before = allocations;
        rounds(100);
        EXPECT_EQ(allocations - before, 0U);
        served = owner->counted()[Op::read].count;
    }
    EXPECT_EQ(owner->counted().errors(), 0U);
    close();
}

// What the last round brought leaves with the next one's wait: commits and the session's reads.
TEST_F(RingPath, MakesOneSystemCallARoundWhateverItCarries) {
    constexpr int kRounds = 200;
    std::thread([this] {
        open();
        rounds(10);
        const std::uint64_t served = owner->counted()[Op::read].count;
        const test::SystemCallCounter enters(__NR_io_uring_enter);
        rounds(kRounds);
        EXPECT_EQ(enters.count(), std::uint64_t{kRounds});
        // A request takes two rounds, one that brings it and one for its data, if not more.
        EXPECT_GE(owner->counted()[Op::read].count - served, std::uint64_t{kRounds} * kDepth / 8);
        EXPECT_EQ(owner->counted().errors(), 0U);
        close();
    }).join();
}

// Io and an arena as a tag has them.
struct Slot {
    explicit Slot(IoScope& scope) : io(arena, scope) {}
    alignas(std::max_align_t) std::array<std::byte, 4096> frames{};
    Arena arena{frames.data(), frames.size()};
    Io io;
    std::array<std::byte, 4096> data{};
};

Task<> read_once(Io& io, int file, Buffer into, std::uint64_t offset) {
    const IoResult read = co_await io.read(file, into, offset).within(std::chrono::hours(1));
    if (!read.ok()) co_return read;
    co_return co_await io.read(file, into, offset);
}
Task<> read_often(Slot& slot, int file, int count) {
    const Buffer into = Buffer::memory(slot.data.data(), 4096);
    IoResult result;
    for (int i = 0; i < count && result.ok(); ++i) {
        result = co_await read_once(slot.io, file, into, static_cast<std::uint64_t>(i) % 64 * 4096);
    }
    co_return result;
}

TEST(RingOperations, ReadsAllocateNothing) {
    const Fd file(memfd_create("data", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), 1 << 20), 0);
    test::RingRunner ring;
    std::deque<Slot> slots;
    for (std::uint16_t i = 0; i < kDepth; ++i) slots.emplace_back(ring.scope());
    std::vector<Task<>> tasks;
    tasks.reserve(kDepth);
    const std::uint64_t before = allocations;
    for (Slot& slot : slots) tasks.push_back(read_often(slot, file.get(), kRequests / 2 / kDepth));
    for (Task<>& task : tasks) ring.run_until([&] { return task.done(); });
    // The tasks' own frames, which have no Io among their parameters.
    EXPECT_EQ(allocations - before, std::uint64_t{kDepth});
    for (const Task<>& task : tasks) EXPECT_EQ(task.result().count(), 4096U);
}

Task<> complete_often(Io& io, int count, std::atomic<Completion*>& wanted) {
    for (int i = 0; i < count; ++i) {
        Completion done(io);
        wanted = &done;
        wanted.notify_one();
        static_cast<void>(co_await done);
    }
    co_return IoResult{};
}

TEST(RingOperations, CompletionsAllocateNothing) {
    constexpr int kCount = 10'000;
    test::RingRunner ring;
    std::atomic<Completion*> wanted = nullptr;
    std::atomic<bool> begun = false;
    std::jthread other([&] {
        begun = true;
        begun.notify_one();
        for (int i = 0; i < kCount; ++i) {
            wanted.wait(nullptr);
            wanted.exchange(nullptr)->complete({});
        }
    });
    begun.wait(false);
    const std::uint64_t before = allocations;
    const Task<> task = complete_often(ring.io(), kCount, wanted);
    ring.run_until([&] { return task.done(); });
    EXPECT_EQ(allocations - before, 0U);
}

Task<> meet(Io& io, std::barrier<>& place) {
    co_return co_await io.offload([&place]() noexcept {
        place.arrive_and_wait();
        return IoResult{};
    });
}
Task<> offload_often(Io& io, int count) {
    for (int i = 0; i < count; ++i) {
        static_cast<void>(co_await io.offload([]() noexcept { return IoResult{}; }));
    }
    co_return IoResult{};
}

TEST(RingOperations, OffloadedCallsAllocateNothing) {
    test::RingRunner ring;
    {
        // Now all threads are there.
        std::barrier all(static_cast<std::ptrdiff_t>(OffloadPool::kThreadsMax));
        std::deque<Task<>> tasks;
        for (std::size_t i = 0; i < OffloadPool::kThreadsMax; ++i) {
            tasks.push_back(meet(ring.io(), all));
        }
        for (Task<>& task : tasks) ring.run_until([&] { return task.done(); });
    }
    const std::uint64_t before = allocations;
    const Task<> task = offload_often(ring.io(), 10'000);
    ring.run_until([&] { return task.done(); });
    EXPECT_EQ(allocations - before, 0U);
}

}  // namespace
}  // namespace ashlar
