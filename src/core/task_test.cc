// Tasks and the arena their frames lie in.
#include <ashlar/task.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "core/io_scope.h"
#include "support/fake_reactor.h"

namespace ashlar {
namespace {

struct Tag {
    explicit Tag(std::size_t size = 4096) : memory(size), arena(memory.data(), size) {}
    std::vector<std::byte> memory;
    Arena arena;
    test::FakeReactor reactor{0};
    OffloadPool offload;
    IoScope scope{reactor, offload};
    Io io{arena, scope};
};

// What a coroutine waits for until the test lets it go on.
struct Gate {
    std::coroutine_handle<> waiter;
    static bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { waiter = handle; }
    static void await_resume() noexcept {}
};

// Not inlined, or a compiler may do without the frame that the tests look for.
[[gnu::noinline]] Task<> at_once(Io&, int value) {
    co_return IoResult::bytes(static_cast<std::uint64_t>(value));
}
Task<> after(Io&, Gate& gate, IoResult result) {
    co_await gate;
    co_return result;
}
// Three deep: each adds one to what the one below gives.
Task<> nested(Io& io, Gate& gate, int depth) {
    if (depth == 0) {
        co_await gate;
        co_return IoResult{};
    }
    const IoResult below = co_await nested(io, gate, depth - 1);
    if (!below.ok()) co_return below;
    co_return IoResult::bytes(below.count() + 1);
}
Task<int> number(Io&, Gate& gate) {
    co_await gate;
    co_return 42;
}
Task<> from_number(Io& io, Gate& gate) {
    const int value = co_await number(io, gate);
    co_return IoResult::bytes(static_cast<std::uint64_t>(value));
}

struct Ending {
    Task<>* task = nullptr;
    int calls = 0;
    IoResult result{};
    static void call(void* context) noexcept {
        auto& self = *static_cast<Ending*>(context);
        ++self.calls;
        self.result = self.task->result();
    }
};

TEST(Task, AValueIsDoneWithoutAFrame) {
    Task<> task = IoResult::from_errno(ENOSPC);
    EXPECT_TRUE(task.done());
    EXPECT_EQ(task.result().error(), ENOSPC);
}

TEST(Task, ACoroutineStartsAtOnceAndMayEndAtOnce) {
    Tag tag;
    {
        const Task<> task = at_once(tag.io, 7);
        EXPECT_TRUE(task.done());
        EXPECT_EQ(task.result().count(), 7U);
        EXPECT_GT(tag.arena.used(), 0U);
    }
    EXPECT_EQ(tag.arena.used(), 0U);
}

TEST(Task, TellsOnceWhenItEndsLater) {
    Tag tag;
    Gate gate;
    Task<> task = after(tag.io, gate, IoResult::from_errno(EIO));
    ASSERT_FALSE(task.done());
    Ending ending{.task = &task};
    task.on_done(&Ending::call, &ending);
    EXPECT_EQ(ending.calls, 0);
    gate.waiter.resume();
    EXPECT_TRUE(task.done());
    EXPECT_EQ(ending.calls, 1);
    EXPECT_EQ(ending.result.error(), EIO);
}

TEST(Task, MayBeDestroyedByItsOwnEnding) {
    Tag tag;
    Gate gate;
    auto task = std::make_unique<Task<>>(after(tag.io, gate, {}));
    task->on_done(
        [](void* context) noexcept { static_cast<std::unique_ptr<Task<>>*>(context)->reset(); },
        &task);
    gate.waiter.resume();
    EXPECT_EQ(task, nullptr);
    EXPECT_EQ(tag.arena.used(), 0U);
}

TEST(Task, MovesWithItsCoroutine) {
    Tag tag;
    Gate gate;
    Task<> first = after(tag.io, gate, IoResult::bytes(9));
    Task<> second = std::move(first);
    Task<> third{IoResult{}};
    third = std::move(second);
    EXPECT_FALSE(third.done());
    gate.waiter.resume();
    EXPECT_TRUE(third.done());
    EXPECT_EQ(third.result().count(), 9U);
    third = Task<>(IoResult::bytes(1));
    EXPECT_EQ(tag.arena.used(), 0U) << "the old coroutine is destroyed by assignment";
    EXPECT_EQ(third.result().count(), 1U);
}

TEST(Task, MayBeDestroyedBeforeItEnds) {
    Tag tag;
    Gate gate;
    {
        const Task<> task = nested(tag.io, gate, 3);
    }
    EXPECT_EQ(tag.arena.used(), 0U) << "with those it waited for";
}

TEST(Task, AwaitsTasks) {
    Tag tag;
    Gate gate;
    Task<> task = nested(tag.io, gate, 5);
    ASSERT_FALSE(task.done());
    Ending ending{.task = &task};
    task.on_done(&Ending::call, &ending);
    gate.waiter.resume();
    EXPECT_EQ(ending.calls, 1);
    EXPECT_EQ(ending.result.count(), 5U);
}

Task<> sum(Io& io, int count) {
    std::uint64_t total = 0;
    for (int i = 0; i < count; ++i) total += (co_await at_once(io, i)).count();
    co_return IoResult::bytes(total);
}

TEST(Task, AwaitingWhatIsDoneDoesNotSuspend) {
    Tag tag;
    const Task<> task = sum(tag.io, 100);
    EXPECT_TRUE(task.done());
    EXPECT_EQ(task.result().count(), 4950U);
}

TEST(Task, AwaitingManyInTurnNeedsNoStackForEach) {
    Tag tag;
    const Task<> task = sum(tag.io, 200'000);
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().count(), 19'999'900'000U);
}

TEST(Task, OfAnotherType) {
    Tag tag;
    Gate gate;
    Task<> task = from_number(tag.io, gate);
    gate.waiter.resume();
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().count(), 42U);
}

struct Counted {
    explicit Counted(int& alive) : count(alive) { ++count; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() { --count; }
    int& count;
};

Task<> holds(Io&, Gate& gate, int& alive) {
    const Counted counted(alive);
    co_await gate;
    co_return IoResult{};
}

TEST(Task, DestroysItsLocalsOnce) {
    Tag tag;
    Gate gate;
    int alive = 0;
    {
        const Task<> task = holds(tag.io, gate, alive);
        EXPECT_EQ(alive, 1);
    }
    EXPECT_EQ(alive, 0);
    const Task<> task = holds(tag.io, gate, alive);
    gate.waiter.resume();
    EXPECT_EQ(alive, 0);
}

Task<> throws(Io&) {
    throw 1;
    co_return IoResult{};
}

TEST(TaskDeathTest, AnExceptionEndsTheProcess) {
    Tag tag;
    EXPECT_DEATH(static_cast<void>(throws(tag.io)), "terminate called");
}

// ---- Arena -------------------------------------------------------------------------------------

bool inside(const Tag& tag, const void* frame) {
    const auto* byte = static_cast<const std::byte*>(frame);
    return byte >= tag.memory.data() && byte < tag.memory.data() + tag.memory.size();
}

TEST(Arena, FramesLieInItAlignedAndApart) {
    Tag tag;
    std::vector<std::byte*> frames;
    for (const std::size_t size : {1U, 24U, 100U, 333U}) {
        auto* frame = static_cast<std::byte*>(Arena::allocate_frame(&tag.arena, size));
        EXPECT_TRUE(inside(tag, frame));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(frame) % alignof(std::max_align_t), 0U);
        std::memset(frame, static_cast<int>(frames.size()) + 1, size);
        frames.push_back(frame);
    }
    EXPECT_EQ(frames[0][0], std::byte{1});
    EXPECT_EQ(frames[1][23], std::byte{2});
    EXPECT_EQ(frames[2][99], std::byte{3});
    Arena::free_frame(frames[1]);
    Arena::free_frame(frames[3]);
    Arena::free_frame(frames[0]);
    EXPECT_GT(tag.arena.used(), 0U);
    Arena::free_frame(frames[2]);
    EXPECT_EQ(tag.arena.used(), 0U) << "freed in any order, the space is one again";
}

TEST(Arena, TheLastFramesSpaceIsUsedAgainAtOnce) {
    Tag tag;
    void* first = Arena::allocate_frame(&tag.arena, 64);
    void* second = Arena::allocate_frame(&tag.arena, 64);
    Arena::free_frame(second);
    void* third = Arena::allocate_frame(&tag.arena, 64);
    EXPECT_EQ(second, third);
    Arena::free_frame(third);
    Arena::free_frame(first);
}

TEST(Arena, ASpaceIsUsedAgainOnceThoseAboveItAreFree) {
    Tag tag;
    void* first = Arena::allocate_frame(&tag.arena, 64);
    void* second = Arena::allocate_frame(&tag.arena, 64);
    void* third = Arena::allocate_frame(&tag.arena, 64);
    Arena::free_frame(second);
    Arena::free_frame(third);
    void* fourth = Arena::allocate_frame(&tag.arena, 64);
    EXPECT_EQ(fourth, second);
    Arena::free_frame(fourth);
    Arena::free_frame(first);
}

TEST(Arena, AFreedFramesSpaceIsUsedAgainOnceThoseAboveItAreFree) {
    Tag tag;
    void* first = Arena::allocate_frame(&tag.arena, 64);
    const std::size_t with_first = tag.arena.used();
    void* second = Arena::allocate_frame(&tag.arena, 100);
    void* third = Arena::allocate_frame(&tag.arena, 200);
    const std::size_t with_all = tag.arena.used();
    Arena::free_frame(second);
    EXPECT_EQ(tag.arena.used(), with_all) << "the third lies above it";
    void* fourth = Arena::allocate_frame(&tag.arena, 100);
    EXPECT_GT(fourth, third);
    Arena::free_frame(third);
    Arena::free_frame(fourth);
    EXPECT_EQ(tag.arena.used(), with_first);
    EXPECT_EQ(Arena::allocate_frame(&tag.arena, 100), second);
    Arena::free_frame(second);
    Arena::free_frame(first);
    EXPECT_EQ(tag.arena.used(), 0U);
}

TEST(Arena, FramesThatLiveLongDoNotUseItUp) {
    Tag tag(1024);
    void* lasting = Arena::allocate_frame(&tag.arena, 64);
    for (int i = 0; i < 1000; ++i) {
        void* one = Arena::allocate_frame(&tag.arena, 128);
        void* two = Arena::allocate_frame(&tag.arena, 128);
        ASSERT_TRUE(inside(tag, one) && inside(tag, two)) << i;
        Arena::free_frame(one);
        Arena::free_frame(two);
    }
    Arena::free_frame(lasting);
}

TEST(Arena, AFrameThatDoesNotFitGoesToTheHeap) {
    Tag tag(256);
    void* small = Arena::allocate_frame(&tag.arena, 64);
    const std::size_t used = tag.arena.used();
    auto* large = static_cast<std::byte*>(Arena::allocate_frame(&tag.arena, 1000));
    EXPECT_FALSE(inside(tag, large));
    EXPECT_EQ(tag.arena.used(), used);
    std::memset(large, 1, 1000);
    Arena::free_frame(large);
    EXPECT_EQ(tag.arena.used(), used) << "a heap frame is not the arena's";
    Arena::free_frame(small);
    EXPECT_EQ(tag.arena.used(), 0U);
}

TEST(Arena, IsFilledToTheLastByteAndNoFurther) {
    for (const std::size_t size : {128U, 144U, 160U}) {
        Tag tag(size);
        std::vector<void*> frames;
        do {
            frames.push_back(Arena::allocate_frame(&tag.arena, 16));
            ASSERT_LE(tag.arena.used(), size);
        } while (inside(tag, frames.back()));
        EXPECT_EQ(frames.size(), 1 + size / 32);
        for (void* frame : frames) Arena::free_frame(frame);
        EXPECT_EQ(tag.arena.used(), 0U);
    }
}

TEST(Arena, NoneIsTheHeap) {
    void* frame = Arena::allocate_frame(nullptr, 100);
    ASSERT_NE(frame, nullptr);
    std::memset(frame, 1, 100);
    Arena::free_frame(frame);
}

Task<> large_frame(Io&, Gate& gate) {
    std::array<unsigned char, 8192> big{};
    big[8191] = 5;
    co_await gate;
    co_return IoResult::bytes(big[8191]);
}

TEST(Arena, ACoroutineTooLargeForItStillRuns) {
    Tag tag(512);
    Gate gate;
    {
        Task<> task = large_frame(tag.io, gate);
        EXPECT_EQ(tag.arena.used(), 0U);
        gate.waiter.resume();
        ASSERT_TRUE(task.done());
        EXPECT_EQ(task.result().count(), 5U);
    }
    EXPECT_EQ(tag.arena.used(), 0U);
}

}  // namespace
}  // namespace ashlar
