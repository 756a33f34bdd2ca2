// Queue threads over fake reactors, and over the real one.
#include "core/queue_threads.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <future>
#include <set>

#include <gtest/gtest.h>

#include "base/thread_scheduling.h"
#include "kernel/features.h"
#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using namespace std::chrono_literals;

// Makes fake reactors and remembers the last one, and how many are alive.
struct Fakes {
    struct Counted final : test::FakeReactor {
        explicit Counted(Fakes& fakes) : all(fakes) { ++all.alive; }
        ~Counted() override { --all.alive; }
        void close() noexcept override {
            FakeReactor::close();
            ++all.closed;
        }
        Fakes& all;
    };

    ReactorFactory factory() {
        return [this](const ReactorOptions& options) -> Result<std::unique_ptr<Reactor>> {
            seen = options;
            auto reactor = std::make_unique<Counted>(*this);
            last = reactor.get();
            return reactor;
        };
    }

    std::atomic<int> alive = 0;
    std::atomic<int> closed = 0;
    ReactorOptions seen;
    test::FakeReactor* last = nullptr;
};

// An owner that another thread can wait for.
class WaitingOwner final : public QueueOwner {
public:
    void queue_opened() noexcept override {}
    void queue_left(std::uint32_t) noexcept override {}
    void queue_home(std::uint32_t number) noexcept override {
        if (thread != nullptr) thread->post([](QueueThread& self) { self.drop_home_queues(); });
        const std::lock_guard lock(mutex_);
        home = number;
    }
    void queue_failed(std::uint32_t, Error error) noexcept override {
        const std::lock_guard lock(mutex_);
        failures.push_back(std::move(error));
    }
    void queue_closed() noexcept override {
        const std::lock_guard lock(mutex_);
        ++closed_;
        changed_.notify_all();
    }
    void await_closed(int count = 1) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closed_ >= count; });
    }
    int closed() {
        const std::lock_guard lock(mutex_);
        return closed_;
    }

    QueueThread* thread = nullptr;
    std::vector<Error> failures;
    std::optional<std::uint32_t> home;
    LiveMetrics metrics;

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int closed_ = 0;
};

std::unique_ptr<QueueThread> make_thread(const ReactorFactory& factory) {
    auto thread =
        QueueThread::create(factory, {.entries = 8, .files = 4}, "test-thread-with-long-name");
    if (!thread) throw std::runtime_error(thread.error().message());
    return std::move(*thread);
}

// Runs a call on the thread and waits for it.
template <class Call>
auto on_thread(QueueThread& thread, Call call) {
    using R = std::invoke_result_t<Call, QueueThread&>;
    std::promise<R> done;
    auto answer = done.get_future();
    if (!thread.post([&](QueueThread& self) {
            if constexpr (std::is_void_v<R>) {
                call(self);
                done.set_value();
            } else {
                done.set_value(call(self));
            }
        })) {
        throw std::runtime_error("the thread has ended");
    }
    return answer.get();
}

void adopt_queue(QueueThread& thread, test::FakeCharDevice& kernel,
                 const std::shared_ptr<WaitingOwner>& owner, std::uint16_t index = 0,
                 std::unique_ptr<Session> session = std::make_unique<test::RecordingSession>(),
                 DeviceId device = 0) {
    on_thread(thread, [&](QueueThread& self) {
        const QueueConfig config{.device = device, .index = index, .depth = 2, .io_max = 4096};
        auto backend = std::make_shared<test::SessionBackend>(std::move(session));
        auto queue = Queue::open(config, {.reactor = self.reactor(),
                                          .offload = self.offload(),
                                          .metrics = owner->metrics,
                                          .device = kernel.device(),
                                          .backend = std::move(backend),
                                          .owner = owner,
                                          .part = index});
        ASSERT_TRUE(queue) << queue.error().message();
        (*queue)->fetch_all();
        self.adopt(std::move(*queue));
    });
}

TEST(QueueThread, StandsWithTheReactorItWasGiven) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    EXPECT_EQ(fakes.alive, 1);
    EXPECT_EQ(fakes.seen.entries, 8U);
    EXPECT_EQ(fakes.seen.files, 4U);
    const auto id = on_thread(*thread, [](QueueThread&) { return std::this_thread::get_id(); });
    EXPECT_NE(id, std::this_thread::get_id());
    thread.reset();
    EXPECT_EQ(fakes.alive, 0);
}

TEST(QueueThread, AReactorThatCannotBeOpenedIsTheErrorOfCreate) {
    const ReactorFactory factory = [](const ReactorOptions&) -> Result<std::unique_ptr<Reactor>> {
        return std::unexpected(Error{.operation = "set up io_uring", .code = ENOSYS});
    };
    auto thread = QueueThread::create(factory, {}, "test");
    ASSERT_FALSE(thread);
    EXPECT_EQ(thread.error().code, ENOSYS);
    EXPECT_EQ(thread.error().operation, "set up io_uring");
}

TEST(QueueThread, SignalsAreNotItsBusinessAndItsNameIsCut) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    struct Seen {
        bool blocked;
        std::string name;
    };
    const Seen seen = on_thread(*thread, [](QueueThread&) {
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        std::array<char, 64> name{};
        pthread_getname_np(pthread_self(), name.data(), name.size());
        return Seen{sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1,
                    name.data()};
    });
    EXPECT_TRUE(seen.blocked);
    EXPECT_EQ(seen.name, "test-thread-wit");
    sigset_t own;
    pthread_sigmask(SIG_SETMASK, nullptr, &own);
    EXPECT_EQ(sigismember(&own, SIGTERM), 0) << "the caller's mask is as before";
}

TEST(QueueThread, PinsToCpusThatExistAndIgnoresOthers) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof(allowed), &allowed);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &allowed)) ++cpu;
    const auto cpus = [](QueueThread&) {
        cpu_set_t set;
        CPU_ZERO(&set);
        sched_getaffinity(0, sizeof(set), &set);
        return set;
    };
    on_thread(*thread, [&](QueueThread& self) { self.pin_to({-1, cpu, 1 << 20}); });
    const cpu_set_t pinned = on_thread(*thread, cpus);
    EXPECT_EQ(CPU_COUNT(&pinned), 1);
    EXPECT_TRUE(CPU_ISSET(cpu, &pinned));
    on_thread(*thread, [&](QueueThread& self) { self.pin_to({}); });
    const cpu_set_t still = on_thread(*thread, cpus);
    EXPECT_TRUE(CPU_EQUAL(&still, &pinned)) << "no CPU is no wish";
}

TEST(QueueThread, ItsPriorityIsItsOwnAndAWish) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    const auto nice = [](QueueThread&) {
        return getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
    };
    const int before = getpriority(PRIO_PROCESS, 0);
    on_thread(*thread, [](QueueThread&) { set_thread_nice(19); });  // always allowed
    EXPECT_EQ(on_thread(*thread, nice), 19);
    EXPECT_EQ(getpriority(PRIO_PROCESS, 0), before);
    on_thread(*thread, [](QueueThread&) { set_thread_nice(-20); });
    const int after = on_thread(*thread, nice);
    EXPECT_TRUE(after == -20 || after == 19) << after;
}

// ---- How it takes turns -------------------------------------------------------------------------

class QueueThreadTurns : public testing::Test {
protected:
    void SetUp() override {
        if (kernel::running_kernel_version() < kernel::since::deadline_scheduler) {
            GTEST_SKIP() << "a kernel before 6.6: the thread takes none";
        }
    }
};

int policy_of(QueueThread& thread) {
    return on_thread(thread, [](QueueThread&) { return sched_getscheduler(0); });
}

// What rounds bring, while the thread lets wake-ups gather and while it does not.
void bring(QueueThread& thread, unsigned prompt, unsigned gathered, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        on_thread(thread, [&](QueueThread& self) {
            self.reactor().add_brought(sched_getscheduler(0) == SCHED_BATCH ? gathered : prompt);
        });
    }
}

TEST_F(QueueThreadTurns, LetsWakeUpsGatherWhereARoundThenBringsMany) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    on_thread(*thread, [](QueueThread&) { set_thread_nice(7); });
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(policy_of(*thread), SCHED_OTHER);
        // Many more, so that it does not matter how long this thread lets each round wait.
        bring(*thread, 1, 1 << 20, 30);
        EXPECT_EQ(policy_of(*thread), SCHED_BATCH);
        EXPECT_EQ(on_thread(*thread, [](QueueThread&) { return getpriority(PRIO_PROCESS, 0); }), 7);
        bring(*thread, 1, 1, 16);
    }
}

TEST_F(QueueThreadTurns, LeavesAPolicyThatSomebodyGaveIt) {
    Fakes fakes;
    auto thread = make_thread(fakes.factory());
    on_thread(*thread, [](QueueThread&) {
        const sched_param none{};
        EXPECT_EQ(sched_setscheduler(0, SCHED_BATCH, &none), 0);
    });
    bring(*thread, 1, 1, 100);
    EXPECT_EQ(policy_of(*thread), SCHED_BATCH) << "of its own it would have gone back";
}

TEST_F(QueueThreadTurns, OneThatAKernelThreadPollsForTakesNoTurns) {
    Fakes fakes;
    auto thread = QueueThread::create(fakes.factory(), {.polling = SubmissionPolling{}}, "t");
    ASSERT_TRUE(thread);
    bring(**thread, 1, 1 << 20, 30);
    EXPECT_EQ(policy_of(**thread), SCHED_OTHER);
}

TEST(QueueThread, QuitEndsItAndThenNothingCanBePosted) {
    Fakes fakes;
    test::FakeCharDevice kernel;
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    adopt_queue(*thread, kernel, owner);
    thread->quit();
    owner->await_closed();
    EXPECT_EQ(fakes.closed, 0) << "its end is for after the thread's";
    thread->join();
    EXPECT_EQ(fakes.closed, 1);
    EXPECT_FALSE(thread->post([](QueueThread&) { FAIL() << "posted to a thread that has ended"; }));
    thread->quit();  // again: nothing happens
}

TEST(QueueThread, ItsEndIsTheEndOfItsQueues) {
    Fakes fakes;
    test::FakeCharDevice kernel(2);
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    adopt_queue(*thread, kernel, owner, 0);
    adopt_queue(*thread, kernel, owner, 1);
    EXPECT_EQ(owner->closed(), 0);
    thread.reset();
    EXPECT_EQ(owner->closed(), 2);
    EXPECT_EQ(kernel.device().use_count(), 1);
}

TEST(QueueThread, AQueueThatIsHomeIsDroppedAndTheThreadLivesOn) {
    Fakes fakes;
    test::FakeCharDevice kernel(2);
    auto owner = std::make_shared<WaitingOwner>();
    auto other = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    owner->thread = thread.get();
    adopt_queue(*thread, kernel, owner, 0);
    adopt_queue(*thread, kernel, other, 1);
    on_thread(*thread, [&](QueueThread&) {
        EXPECT_TRUE(fakes.last->complete_tag(0, 0, abi::io_res_abort));
        EXPECT_TRUE(fakes.last->complete_tag(0, 1, abi::io_res_abort));
    });
    owner->await_closed();
    EXPECT_EQ(owner->home, std::uint16_t{0});
    EXPECT_EQ(other->closed(), 0) << "the neighbour still serves";
    EXPECT_EQ(fakes.alive, 1);
}

TEST(QueueThread, AReactorThatBreaksFailsEveryQueueAndEndsTheThread) {
    Fakes fakes;
    test::FakeCharDevice kernel(2);
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    adopt_queue(*thread, kernel, owner, 0);
    adopt_queue(*thread, kernel, owner, 1);
    fakes.last->break_down(EBADF);
    owner->await_closed(2);
    ASSERT_EQ(owner->failures.size(), 2U);
    for (const Error& error : owner->failures) EXPECT_EQ(error.code, EBADF);
    EXPECT_EQ(owner->failures[1].operation, "queue 1: wait for requests");
    EXPECT_FALSE(thread->post([](QueueThread&) {}));
    thread->join();
    thread->let_go();
    EXPECT_EQ(fakes.alive, 0);
}

TEST(QueueThread, AQueueWhoseThreadQuitsUnderItIsToldSo) {
    // Two devices may share threads; one of them failing ends them all.
    Fakes fakes;
    test::FakeCharDevice kernel;
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    adopt_queue(*thread, kernel, owner);
    thread->quit();
    owner->await_closed();
    EXPECT_FALSE(owner->home) << "its tags are still with the kernel";
    EXPECT_EQ(owner->failures.size(), 1U) << "a device must not die silently";
}

// Waits in every request.
class WaitingSession final : public Session {
public:
    Task<> serve(Io& io, const Request&) override { co_return co_await io.sleep(1h); }
};

TEST(QueueThread, CancelsTheRequestsOfOneDeviceOnly) {
    Fakes fakes;
    test::FakeCharDevice kernel(2);
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    for (const std::uint16_t device : {std::uint16_t{0}, std::uint16_t{1}}) {
        adopt_queue(*thread, kernel, owner, device, std::make_unique<WaitingSession>(), device);
        kernel.put(device, 0, test::make_descriptor(abi::io_op_read, 0, 8));
    }
    const auto cancelled = on_thread(*thread, [&](QueueThread& self) {
        for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
            EXPECT_TRUE(fakes.last->complete_tag(queue, 0, abi::io_res_ok));
        }
        self.cancel_requests(1);
        std::vector<bool> found;
        for (const auto& one : fakes.last->pending()) {
            if (one.submission != nullptr) found.push_back(one.cancelled);
        }
        return found;
    });
    EXPECT_EQ(cancelled, (std::vector{false, true}));
}

// Blocks, on a thread where it may.
class BlockingSession final : public Session {
public:
    BlockingSession(std::atomic<bool>& begun, std::atomic<bool>& ended)
        : begun_(begun), ended_(ended) {}
    Task<> serve(Io& io, const Request&) override {
        co_return co_await io.offload([this]() noexcept {
            begun_ = true;
            begun_.notify_one();
            std::this_thread::sleep_for(30ms);
            ended_ = true;
            return IoResult{};
        });
    }

private:
    std::atomic<bool>& begun_;
    std::atomic<bool>& ended_;
};

TEST(QueueThread, CallsOnOtherThreadsEndBeforeIt) {
    Fakes fakes;
    test::FakeCharDevice kernel;
    auto owner = std::make_shared<WaitingOwner>();
    auto thread = make_thread(fakes.factory());
    std::atomic<bool> begun = false;
    std::atomic<bool> ended = false;
    adopt_queue(*thread, kernel, owner, 0, std::make_unique<BlockingSession>(begun, ended));
    kernel.put(0, 0, test::make_descriptor(abi::io_op_read, 0, 8));
    on_thread(*thread,
              [&](QueueThread&) { EXPECT_TRUE(fakes.last->complete_tag(0, 0, abi::io_res_ok)); });
    begun.wait(false);
    thread.reset();
    EXPECT_TRUE(ended);
    EXPECT_EQ(owner->closed(), 1);
}

// ---- Pools -------------------------------------------------------------------------------------

constexpr auto kOne = QueueThreadPool::Lifetime::one_device;

TEST(QueueThreadPool, RingsThatOutliveADeviceRegisterFilesOnlyWhereTheKernelLetsGoOfThem) {
    Fakes fakes;
    auto own = QueueThreadPool::create({.count = 1}, kOne, fakes.factory(), "t");
    ASSERT_TRUE(own);
    EXPECT_TRUE(fakes.seen.register_files);
    auto shared = QueueThreadPool::create({.count = 1}, QueueThreadPool::Lifetime::shared,
                                          fakes.factory(), "t");
    ASSERT_TRUE(shared);
    const kernel::KernelVersion prompt{6, 13};
    EXPECT_EQ(fakes.seen.register_files, kernel::running_kernel_version() >= prompt);
}

TEST(QueueThreadPool, RefusesNoneAndTooMany) {
    Fakes fakes;
    for (const unsigned count : {0U, 1025U}) {
        auto pool = QueueThreadPool::create({.count = count}, kOne, fakes.factory(), "t");
        ASSERT_FALSE(pool) << count;
        EXPECT_EQ(pool.error().code, EINVAL);
        EXPECT_EQ(pool.error().message(),
                  "start queue threads: count must be 1 to 1024 (EINVAL: Invalid argument)");
    }
    EXPECT_EQ(fakes.alive, 0);
}

TEST(QueueThreadPool, LooksForWorkForAMillisecondAtMost) {
    Fakes fakes;
    for (const auto wrong : {-1us, 1001us}) {
        auto pool = QueueThreadPool::create({.busy_poll = wrong}, kOne, fakes.factory(), "t");
        ASSERT_FALSE(pool);
        EXPECT_EQ(pool.error().code, EINVAL);
        EXPECT_EQ(pool.error().detail, "busy_poll must be 0 to 1000 microseconds");
    }
    EXPECT_TRUE(QueueThreadPool::create({.busy_poll = 1ms}, kOne, fakes.factory(), "t"));
}

TEST(QueueThreadPool, GivesItsThreadsInTurn) {
    Fakes fakes;
    auto pool = QueueThreadPool::create({.count = 3,
                                         .entries = 64,
                                         .buffers = 77,
                                         .polling = SubmissionPolling{.cpu = 5, .idle = 6ms},
                                         .busy_poll = 7us},
                                        kOne, fakes.factory(), "t");
    ASSERT_TRUE(pool);
    EXPECT_EQ(fakes.alive, 3);
    EXPECT_EQ(fakes.seen.entries, 64U);
    EXPECT_EQ(fakes.seen.buffers, 77U);
    ASSERT_TRUE(fakes.seen.polling);
    EXPECT_EQ(fakes.seen.polling->cpu, 5U);
    EXPECT_EQ(fakes.seen.polling->idle, 6ms);
    EXPECT_EQ(fakes.seen.busy_poll, 7us);
    std::vector<QueueThread*> first;
    for (int i = 0; i < 3; ++i) first.push_back(&(*pool)->next());
    EXPECT_EQ(std::set<QueueThread*>(first.begin(), first.end()).size(), 3U);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(&(*pool)->next(), first[static_cast<std::size_t>(i)]);
    (*pool)->quit_all();
    pool->reset();
    EXPECT_EQ(fakes.alive, 0);
}

TEST(QueueThreadPool, OneOfItsThreadsMayEndThemAll) {
    Fakes fakes;
    auto pool = QueueThreadPool::create({.count = 3}, kOne, fakes.factory(), "t");
    ASSERT_TRUE(pool);
    QueueThread& first = (*pool)->next();
    QueueThread& second = (*pool)->next();
    ASSERT_TRUE(first.post([](QueueThread& self) { self.quit_pool(); }));
    first.join();
    second.join();
    EXPECT_FALSE(first.post([](QueueThread&) {}));
    EXPECT_FALSE(second.post([](QueueThread&) {}));
}

TEST(QueueThreadPool, AThreadThatCannotStartEndsTheOthers) {
    Fakes fakes;
    int made = 0;
    auto good = fakes.factory();
    const ReactorFactory factory = [&](const ReactorOptions& options) {
        if (++made == 3) {
            return Result<std::unique_ptr<Reactor>>(
                std::unexpected(Error{.operation = "set up io_uring", .code = ENOMEM}));
        }
        return good(options);
    };
    auto pool = QueueThreadPool::create({.count = 4}, kOne, factory, "t");
    ASSERT_FALSE(pool);
    EXPECT_EQ(pool.error().code, ENOMEM);
    EXPECT_EQ(made, 3);
    EXPECT_EQ(fakes.alive, 0);
}

TEST(QueueThreads, OnTheRealReactor) {
    auto threads = QueueThreads::create({.count = 2, .entries = 16});
    ASSERT_TRUE(threads) << threads.error().message();
    auto& pool = static_cast<QueueThreadPool&>(**threads);
    QueueThread& thread = pool.next();
    int count = 0;
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(thread.post([&count](QueueThread&) { ++count; }));
    }
    EXPECT_EQ(on_thread(thread, [&](QueueThread&) { return count; }), 1000);
}

TEST(QueueThreads, AQueueOnTheRealReactorLearnsThatItsDeviceIsNone) {
    auto threads = QueueThreads::create({.count = 1, .entries = 16});
    ASSERT_TRUE(threads) << threads.error().message();
    QueueThread& thread = static_cast<QueueThreadPool&>(**threads).next();
    test::FakeCharDevice kernel;  // a memory file refuses the fetches
    auto owner = std::make_shared<WaitingOwner>();
    owner->thread = &thread;
    adopt_queue(thread, kernel, owner);
    owner->await_closed();
    ASSERT_EQ(owner->failures.size(), 1U);
    EXPECT_EQ(owner->failures[0].code, EOPNOTSUPP);
    EXPECT_EQ(owner->home, std::uint16_t{0});
}

TEST(QueueThreads, Options) {
    auto none = QueueThreads::create({.count = 0});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, EINVAL);
    auto entries = QueueThreads::create({.count = 1, .entries = 0});
    ASSERT_FALSE(entries);
    EXPECT_EQ(entries.error().code, EINVAL);
}

}  // namespace
}  // namespace ashlar
