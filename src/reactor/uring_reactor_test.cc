// The reactor on a real io_uring. Commands go to /dev/null, which takes any (result 0), and to a
// memory file, which takes none (a negative errno): no driver is needed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/fd.h"
#include "reactor/reactor.h"
#include "support/system_calls.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using std::chrono::milliseconds;

// Long enough to never pass in a test that works.
constexpr auto kLong = milliseconds(60'000);

struct Recorder final : Operation {
    void complete(std::int32_t res, std::uint32_t) noexcept override {
        ++calls;
        result = res;
        if (then) then();
    }
    int calls = 0;
    std::int32_t result = 0;
    std::function<void()> then;
};

Fd dev_null() { return Fd(open("/dev/null", O_RDWR | O_CLOEXEC)); }
Fd memory_file() { return Fd(memfd_create("not a device", MFD_CLOEXEC)); }

std::unique_ptr<Reactor> open_reactor(const ReactorOptions& options = {}) {
    auto reactor = open_uring_reactor(options);
    if (!reactor) throw std::runtime_error(reactor.error().message());
    return std::move(*reactor);
}

FileSlot add(Reactor& reactor, const Fd& fd) { return reactor.register_file(fd.get()).value(); }

constexpr abi::IoCmd kCommand{.q_id = 1, .tag = 2, .result = 3, .addr = 4};
IoCommand fetch(FileSlot file) {
    return {.file = file, .opcode = abi::u_io_fetch_req, .registration = 0, .command = kCommand};
}

// Pushes the reactor's own first submission (it listens for post()), so that rounds can be counted.
void settle(Reactor& reactor) {
    std::atomic<bool> called = false;
    reactor.post([&] { called = true; });
    while (!called) ASSERT_EQ(reactor.run_once(kLong), 0);
}

// ---- Opening -----------------------------------------------------------------------------------

TEST(UringReactor, RefusesSizesThatNoRingHas) {
    for (const unsigned entries : {0U, 32'769U, ~0U}) {
        auto reactor = open_uring_reactor({.entries = entries});
        ASSERT_FALSE(reactor) << entries;
        EXPECT_EQ(reactor.error().code, EINVAL);
        EXPECT_EQ(reactor.error().detail, "entries must be 1 to 32768");
    }
}

TEST(UringReactor, OpensWithTheSmallestAndLargest) {
    EXPECT_TRUE(open_uring_reactor({.entries = 1, .files = 1}));
    EXPECT_TRUE(open_uring_reactor({.entries = 32'768, .files = 1}));
}

// ---- Commands ----------------------------------------------------------------------------------

TEST(UringReactor, AnIoCommandCompletesWithItsResult) {
    const Fd null = dev_null();
    const Fd file = memory_file();
    auto reactor = open_reactor();
    const FileSlot good = add(*reactor, null);
    const FileSlot bad = add(*reactor, file);
    Recorder taken, refused;
    reactor->io_command(fetch(good), taken);
    reactor->io_command(fetch(bad), refused);
    EXPECT_EQ(taken.calls + refused.calls, 0) << "nothing happens before the round";
    while (taken.calls + refused.calls < 2) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(taken.calls, 1);
    EXPECT_EQ(taken.result, 0);
    EXPECT_EQ(refused.calls, 1);
    EXPECT_EQ(refused.result, -EOPNOTSUPP);
}

TEST(UringReactor, ACommandOnAnEmptySlotFails) {
    auto reactor = open_reactor();
    Recorder operation;
    reactor->io_command(fetch(3), operation);
    while (operation.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(operation.result, -EBADF);
}

TEST(UringReactor, ControlCommands) {
    const Fd null = dev_null();
    const Fd file = memory_file();
    auto reactor = open_reactor({.entries = 4, .files = 1, .control_commands = true});
    const abi::CtrlCmd command{};
    Recorder taken, refused, closed;
    reactor->control_command(null.get(), abi::u_cmd_add_dev, command, taken);
    reactor->control_command(file.get(), abi::u_cmd_add_dev, command, refused);
    reactor->control_command(-1, abi::u_cmd_add_dev, command, closed);
    while (taken.calls + refused.calls + closed.calls < 3) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(taken.result, 0);
    EXPECT_EQ(refused.result, -EOPNOTSUPP);
    EXPECT_EQ(closed.result, -EBADF);
}

TEST(UringReactor, MoreThanTheRingHolds) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 4});
    const FileSlot slot = add(*reactor, null);
    std::vector<Recorder> operations(1000);
    for (Recorder& operation : operations) {
        reactor->io_command(fetch(slot), operation);
    }
    int done = 0;
    while (done < 1000) {
        ASSERT_EQ(reactor->run_once(kLong), 0);
        done = 0;
        for (const Recorder& operation : operations) done += operation.calls;
    }
    for (const Recorder& operation : operations) {
        EXPECT_EQ(operation.calls, 1);
        EXPECT_EQ(operation.result, 0);
    }
}

TEST(UringReactor, CompletionsMaySubmitMoreThanTheRingHolds) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 2});
    const FileSlot slot = add(*reactor, null);
    std::vector<Recorder> second(500);
    Recorder first;
    first.then = [&] {
        for (Recorder& operation : second) {
            reactor->io_command(fetch(slot), operation);
        }
    };
    reactor->io_command(fetch(slot), first);
    int done = 0;
    while (done < 500) {
        ASSERT_EQ(reactor->run_once(kLong), 0);
        done = 0;
        for (const Recorder& operation : second) done += operation.calls;
    }
    EXPECT_EQ(done, 500);
}

// ---- Rounds ------------------------------------------------------------------------------------

TEST(UringReactor, OneRoundTakesAllThatIsThere) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 64});
    const FileSlot slot = add(*reactor, null);
    settle(*reactor);
    const std::uint64_t before = reactor->rounds();
    (void)reactor->take_brought();
    std::vector<Recorder> operations(64);
    for (Recorder& operation : operations) {
        reactor->io_command(fetch(slot), operation);
    }
    ASSERT_EQ(reactor->run_once(std::nullopt), 0);
    EXPECT_EQ(reactor->rounds(), before + 1);
    EXPECT_EQ(reactor->take_brought(), 64U);
    EXPECT_EQ(reactor->take_brought(), 0U);
    for (const Recorder& operation : operations) EXPECT_EQ(operation.calls, 1);
}

// Every completion submits its successor, as a queue's commit does: what the last round brought
// leaves with the next one's wait, so a round is one system call whatever it carries.
void count_system_calls(std::optional<milliseconds> timeout) {
    constexpr int kRounds = 50;
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 64});
    const FileSlot slot = add(*reactor, null);
    std::array<Recorder, 32> operations;
    for (Recorder& operation : operations) {
        operation.then = [&] {
            reactor->io_command(fetch(slot), operation);
        };
    }
    settle(*reactor);
    const std::uint64_t before = reactor->rounds();
    for (Recorder& operation : operations) operation.then();
    const test::SystemCallCounter enters(__NR_io_uring_enter);
    for (int round = 0; round < kRounds; ++round) ASSERT_EQ(reactor->run_once(timeout), 0);
    EXPECT_EQ(enters.count(), std::uint64_t{kRounds});
    EXPECT_EQ(reactor->rounds() - before, std::uint64_t{kRounds});
    for (const Recorder& operation : operations) EXPECT_EQ(operation.calls, kRounds);
    // The end of the ring makes no io_uring_enter; the counter outlives it nevertheless.
    reactor.reset();
}

TEST(UringReactor, OneSystemCallARound) {
    std::thread([] { count_system_calls(std::nullopt); }).join();
}

TEST(UringReactor, OneSystemCallARoundAlsoWithATimeOut) {
    std::thread([] { count_system_calls(kLong); }).join();
}

// ---- Sending -----------------------------------------------------------------------------------

class SendAtOnce : public testing::Test {
protected:
    SendAtOnce() {
        std::array<int, 2> ends{};
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
            throw std::runtime_error("socketpair");
        }
        sender = Fd(ends[0]);
        receiver = Fd(ends[1]);
        for (int i = 0; i < 2; ++i) static_cast<void>(reactor->run_once(milliseconds(1)));
    }
    // A message and its submission; they stay where they are.
    struct Message {
        Message(const Fd& socket, std::size_t length)
            : content(length), piece{.iov_base = content.data(), .iov_len = length} {
            header.msg_iov = &piece;
            header.msg_iovlen = 1;
            submission = {.kind = Submission::Kind::sendmsg,
                          .fd = socket.get(),
                          .address = &header,
                          .length = length,
                          .flags = MSG_NOSIGNAL,
                          .at_once = true};
        }
        std::vector<char> content;
        iovec piece;
        msghdr header{};
        Submission submission;
        Recorder recorder;
    };
    void submit(Message& message) { reactor->submit(message.submission, message.recorder); }
    static Fd without_receiver() {
        std::array<int, 2> ends{};
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        close(ends[1]);
        return Fd(ends[0]);
    }
    // What the receiver can take now.
    std::size_t arrived() {
        std::vector<char> into(1 << 20);
        std::size_t all = 0;
        ssize_t got = 0;
        while ((got = recv(receiver.get(), into.data(), into.size(), MSG_DONTWAIT)) > 0) {
            all += static_cast<std::size_t>(got);
        }
        return all;
    }

    static constexpr std::size_t kTooMuch = 4 << 20;
    std::unique_ptr<Reactor> reactor = open_reactor({.entries = 64});
    Fd sender, receiver;
};

TEST_F(SendAtOnce, AWholeMessageIsToldWithTheRound) {
    Message message(sender, 100);
    submit(message);
    EXPECT_EQ(message.recorder.calls, 0);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), 0) << "it is not nothing";
    EXPECT_EQ(message.recorder.calls, 1);
    EXPECT_EQ(message.recorder.result, 100);
    EXPECT_EQ(arrived(), 100U);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
    EXPECT_EQ(message.recorder.calls, 1);
}

TEST_F(SendAtOnce, ItIsToldBeforeTheReplyByOneSystemCall) {
    std::array<char, 200> into{};
    iovec piece{.iov_base = into.data(), .iov_len = into.size()};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    const Submission receiving{
        .kind = Submission::Kind::recvmsg, .fd = receiver.get(), .address = &header};
    Recorder received;
    Message message(sender, 100);
    received.then = [&] { EXPECT_EQ(message.recorder.calls, 1); };
    // A thread whose calls are counted ends with it.
    std::thread([&] {
        reactor = open_reactor();
        settle(*reactor);
        const test::SystemCallCounter enters(__NR_io_uring_enter);
        reactor->submit(receiving, received);
        submit(message);
        EXPECT_EQ(reactor->run_once(kLong), 0);
        EXPECT_EQ(enters.count(), 1U);
        reactor.reset();
    }).join();
    EXPECT_EQ(received.calls, 1);
    EXPECT_EQ(received.result, 100);
}

TEST_F(SendAtOnce, WhatTheSocketDoesNotTakeIsNotSent) {
    Message first(sender, kTooMuch);
    Message second(sender, 10);
    submit(first);
    submit(second);
    while (first.recorder.calls + second.recorder.calls < 2) {
        ASSERT_EQ(reactor->run_once(kLong), 0);
    }
    EXPECT_GT(first.recorder.result, 0);
    EXPECT_LT(first.recorder.result, static_cast<int>(kTooMuch));
    EXPECT_EQ(second.recorder.result, -EAGAIN);
    EXPECT_EQ(arrived(), static_cast<std::size_t>(first.recorder.result));
}

TEST_F(SendAtOnce, WholeOnesAndOthersInOneRound) {
    const Fd closed = without_receiver();
    Message before(sender, 10);
    Message broken(closed, 10);
    Message after(sender, 20);
    submit(before);
    submit(broken);
    submit(after);
    ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(before.recorder.result, 10);
    EXPECT_EQ(broken.recorder.calls, 1);
    EXPECT_EQ(broken.recorder.result, -EPIPE);
    EXPECT_EQ(after.recorder.result, 20);
    EXPECT_EQ(arrived(), 30U);
}

TEST_F(SendAtOnce, WhatIsToldMaySendMore) {
    Message message(sender, 10);
    message.recorder.then = [&] {
        if (message.recorder.calls < 5) submit(message);
    };
    submit(message);
    for (int round = 0; round < 5; ++round) EXPECT_EQ(reactor->run_once(milliseconds(1)), 0);
    EXPECT_EQ(message.recorder.calls, 5);
    EXPECT_EQ(arrived(), 50U);
}

// They fail while it is told, for want of room in the ring: no later round takes them for sent.
TEST_F(SendAtOnce, WhatIsToldMaySendMoreThanTheRingHoldsInVain) {
    const Fd closed = without_receiver();
    std::deque<Message> broken;
    Message message(sender, 10);
    message.recorder.then = [&] {
        for (int i = 0; i < 100; ++i) submit(broken.emplace_back(closed, 1));
    };
    submit(message);
    for (int round = 0; round < 5; ++round) static_cast<void>(reactor->run_once(milliseconds(1)));
    ASSERT_EQ(broken.size(), 100U);
    for (const Message& each : broken) {
        EXPECT_EQ(each.recorder.calls, 1);
        EXPECT_EQ(each.recorder.result, -EPIPE);
    }
}

TEST_F(SendAtOnce, MoreThanTheRingHolds) {
    std::deque<Message> messages;
    for (int i = 0; i < 200; ++i) submit(messages.emplace_back(sender, 1));
    for (int round = 0; round < 3; ++round) static_cast<void>(reactor->run_once(milliseconds(1)));
    for (const Message& each : messages) EXPECT_EQ(each.recorder.calls, 1);
    EXPECT_EQ(arrived(), 200U);
}

TEST_F(SendAtOnce, AKernelThreadTellsEachByItself) {
    reactor = open_reactor({.entries = 64, .polling = SubmissionPolling{}});
    Message message(sender, 100);
    submit(message);
    while (message.recorder.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(message.recorder.result, 100);
}

TEST_F(SendAtOnce, FollowersOfWhatDidNotLeaveAsAWholeAreNotStarted) {
    std::deque<Message> messages;
    for (const std::size_t length : {std::size_t{10}, kTooMuch, std::size_t{20}, std::size_t{30}}) {
        Message& message = messages.emplace_back(sender, length);
        message.submission.at_once = false;
        message.submission.flags = MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL;
        message.submission.followers = static_cast<std::uint8_t>(4 - messages.size());
    }
    for (Message& each : messages) submit(each);
    const auto all_told = [&] {
        return std::ranges::all_of(messages, [](const auto& each) { return each.recorder.calls; });
    };
    while (!all_told()) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(messages[0].recorder.result, 10);
    EXPECT_GT(messages[1].recorder.result, 0);
    EXPECT_LT(messages[1].recorder.result, static_cast<int>(kTooMuch));
    EXPECT_EQ(messages[2].recorder.result, -ECANCELED);
    EXPECT_EQ(messages[3].recorder.result, -ECANCELED);
    EXPECT_EQ(arrived(), 10U + static_cast<std::size_t>(messages[1].recorder.result));
}

TEST_F(SendAtOnce, FollowersLeaveInTheirOrderHoweverFullTheRingIs) {
    reactor = open_reactor({.entries = 1});
    std::deque<Message> messages;
    for (int chain = 0; chain < 10; ++chain) {
        for (int i = 0; i < 20; ++i) {
            Message& message = messages.emplace_back(sender, 1);
            message.content[0] = static_cast<char>(messages.size());
            message.submission.at_once = false;
            message.submission.followers = static_cast<std::uint8_t>(19 - i);
            submit(message);
        }
        while (messages.back().recorder.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    }
    std::array<char, 201> into{};
    ASSERT_EQ(recv(receiver.get(), into.data(), into.size(), MSG_DONTWAIT), 200);
    for (std::size_t i = 0; i < 200; ++i) ASSERT_EQ(into[i], static_cast<char>(i + 1));
}

// ---- Time-outs ---------------------------------------------------------------------------------

TEST(UringReactor, ATimeOutWithNothingToDoIsETIME) {
    auto reactor = open_reactor();
    static_cast<void>(reactor->run_once(milliseconds(1)));
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
    EXPECT_EQ(reactor->run_once(milliseconds(0)), ETIME);
}

TEST(UringReactor, ATimeOutAfterASubmissionIsETIMEToo) {
    auto reactor = open_reactor();  // its first round submits the read that post() ends
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
}

TEST(UringReactor, ARoundThatBringsSomethingIsNoTimeOut) {
    const Fd null = dev_null();
    auto reactor = open_reactor();
    const FileSlot slot = add(*reactor, null);
    settle(*reactor);
    Recorder operation;
    reactor->io_command(fetch(slot), operation);
    EXPECT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(operation.calls, 1);
}

// ---- Files -------------------------------------------------------------------------------------

TEST(UringReactor, FilesUntilFullAndAgain) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 8, .files = 3});
    std::vector<FileSlot> slots;
    for (int i = 0; i < 3; ++i) slots.push_back(add(*reactor, null));
    auto full = reactor->register_file(null.get());
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, ENFILE);
    EXPECT_EQ(full.error().operation, "register file");

    reactor->unregister_file(slots[1]);
    const FileSlot again = add(*reactor, null);
    EXPECT_EQ(again, slots[1]);
    EXPECT_FALSE(reactor->register_file(null.get()));
    for (const FileSlot slot : {slots[0], again, slots[2]}) {
        Recorder operation;
        reactor->io_command(fetch(slot), operation);
        while (operation.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
        EXPECT_EQ(operation.result, 0) << slot;
        reactor->unregister_file(slot);
    }
    Recorder operation;
    reactor->io_command(fetch(slots[0]), operation);
    while (operation.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(operation.result, -EBADF) << "the reactor holds no file that was given back";
}

TEST(UringReactor, ABadDescriptorTakesNoSlot) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 8, .files = 1});
    for (int i = 0; i < 3; ++i) {
        auto bad = reactor->register_file(100'000);
        ASSERT_FALSE(bad);
        EXPECT_EQ(bad.error().code, EBADF);
    }
    EXPECT_TRUE(reactor->register_file(null.get()));
}

TEST(UringReactor, ARegisteredFileOutlivesItsDescriptor) {
    auto reactor = open_reactor();
    Fd null = dev_null();
    const FileSlot slot = add(*reactor, null);
    null.reset();
    Recorder operation;
    reactor->io_command(fetch(slot), operation);
    while (operation.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(operation.result, 0);
}

TEST(UringReactor, WithoutRegistrationADescriptorIsItsOwnSlot) {
    const Fd null = dev_null();
    auto reactor = open_reactor({.entries = 8, .files = 1, .register_files = false});
    Recorder operation;
    for (int i = 1; i <= 3; ++i) {
        const FileSlot slot = add(*reactor, null);
        EXPECT_EQ(slot, static_cast<FileSlot>(null.get()));
        reactor->io_command(fetch(slot), operation);
        while (operation.calls < i) ASSERT_EQ(reactor->run_once(kLong), 0);
        EXPECT_EQ(operation.result, 0);
    }
    reactor->unregister_file(static_cast<FileSlot>(null.get()));
    EXPECT_EQ(fcntl(null.get(), F_GETFD), FD_CLOEXEC) << "the descriptor stays its owner's";
}

// ---- Registered buffers and groups -------------------------------------------------------------

TEST(UringReactor, SlotsForBuffersUntilFullAndAgain) {
    auto reactor = open_reactor({.entries = 8, .buffers = 10});
    EXPECT_EQ(reactor->reserve_buffers(4).value(), 0);
    EXPECT_EQ(reactor->reserve_buffers(4).value(), 4);
    auto full = reactor->reserve_buffers(3);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, ENOSPC);
    EXPECT_EQ(full.error().hint, "use more threads, less depth, or a data path without zero copy");
    EXPECT_EQ(reactor->reserve_buffers(2).value(), 8);
    reactor->release_buffers(4, 4);
    EXPECT_EQ(reactor->reserve_buffers(1).value(), 4);
    EXPECT_FALSE(reactor->reserve_buffers(4)) << "they must lie in a row";
    EXPECT_EQ(reactor->reserve_buffers(3).value(), 5);
}

TEST(UringReactor, AReactorWithoutSlotsForBuffersHasNone) {
    auto reactor = open_reactor({.entries = 8});
    auto none = reactor->reserve_buffers(1);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ENOSPC);
}

TEST(UringReactor, AsManySlotsForBuffersAsTheKernelTakes) {
    auto reactor = open_reactor({.entries = 8, .buffers = 100'000});
    EXPECT_TRUE(reactor->reserve_buffers(16'384));
    EXPECT_FALSE(reactor->reserve_buffers(1));
}

TEST(UringReactor, GroupsOfBuffersComeAndGo) {
    auto reactor = open_reactor();
    std::vector<std::byte> memory(64 * 128);
    const std::uint16_t first = reactor->open_buffer_group(memory, 64).value();
    const std::uint16_t second = reactor->open_buffer_group(memory, 1).value();
    EXPECT_NE(first, second);
    reactor->close_buffer_group(first);
    EXPECT_EQ(reactor->open_buffer_group(memory, 8).value(), first);
    for (int i = 0; i < 1000; ++i) {
        auto group = reactor->open_buffer_group(memory, 4);
        ASSERT_TRUE(group) << group.error().message();
        EXPECT_EQ(*group, second + 1) << "an id is used again";
        reactor->close_buffer_group(*group);
    }
    reactor->close();
    reactor->close_buffer_group(second);  // as a queue does whose ring has ended
}

// ---- Batches and silent commands ---------------------------------------------------------------

TEST(UringReactor, BatchCommandsCompleteWithTheirResult) {
    const Fd null = dev_null();
    const Fd file = memory_file();
    auto reactor = open_reactor();
    const FileSlot good = add(*reactor, null);
    const FileSlot bad = add(*reactor, file);
    const std::array<std::byte, 64> elements{};
    std::vector<std::byte> memory(1024);
    const std::uint16_t group = reactor->open_buffer_group(memory, 8).value();
    Recorder taken, refused, not_fetched;
    const abi::BatchIo commit{};
    reactor->batch_command(good, abi::u_io_commit_io_cmds, commit, elements.data(), taken);
    reactor->batch_command(bad, abi::u_io_commit_io_cmds, commit, elements.data(), refused);
    reactor->batch_fetch(bad, abi::u_io_fetch_io_cmds, abi::BatchIo{}, group, not_fetched);
    while (taken.calls + refused.calls + not_fetched.calls < 3) {
        ASSERT_EQ(reactor->run_once(kLong), 0);
    }
    EXPECT_EQ(taken.result, 0);
    EXPECT_EQ(refused.result, -EOPNOTSUPP);
    EXPECT_EQ(not_fetched.result, -EOPNOTSUPP);
}

TEST(UringReactor, ASilentCommandTellsNobody) {
    const Fd null = dev_null();
    auto reactor = open_reactor();
    const FileSlot slot = add(*reactor, null);
    settle(*reactor);
    for (int i = 0; i < 10; ++i) reactor->silent_io_command(fetch(slot));
    EXPECT_EQ(reactor->run_once(milliseconds(10)), ETIME) << "not even the ring is woken";
    // One that fails completes, but for nobody.
    reactor->silent_io_command(fetch(slot + 1));
    EXPECT_EQ(reactor->run_once(milliseconds(10)), 0);
}

// ---- Cancelling --------------------------------------------------------------------------------

Submission read_of(int fd, std::span<std::byte> into) {
    return {.kind = Submission::Kind::read,
            .fd = fd,
            .buffer = Buffer::memory(into.data(), static_cast<std::uint32_t>(into.size()))};
}

TEST(UringReactor, CancelEndsOneOperationAndNoOther) {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    const Fd out(fds[0]);
    const Fd in(fds[1]);
    auto reactor = open_reactor();
    std::array<std::byte, 16> first_bytes{}, second_bytes{};
    const Submission first_read = read_of(out.get(), first_bytes);
    const Submission second_read = read_of(out.get(), second_bytes);
    Recorder first, second;
    reactor->submit(first_read, first);
    reactor->submit(second_read, second);
    EXPECT_EQ(reactor->run_once(milliseconds(5)), ETIME);
    reactor->cancel(second);
    while (second.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(second.result, -ECANCELED);
    EXPECT_EQ(first.calls, 0);
    ASSERT_EQ(write(in.get(), "abc", 3), 3);
    while (first.calls == 0) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(first.result, 3);
    reactor->cancel(first);  // it has ended: nothing happens
    static_cast<void>(reactor->run_once(milliseconds(5)));
    EXPECT_EQ(first.calls, 1);
    EXPECT_EQ(second.calls, 1);
}

// ---- Hooks -------------------------------------------------------------------------------------

struct Hook final : RoundHook {
    explicit Hook(std::function<void()> what) : call(std::move(what)) {}
    void before_round() noexcept override {
        ++calls;
        call();
    }
    int calls = 0;
    std::function<void()> call;
};

TEST(UringReactor, AHookIsToldOnceBeforeTheRoundAndWhatItSubmitsLeavesWithIt) {
    const Fd null = dev_null();
    auto reactor = open_reactor();
    const FileSlot slot = add(*reactor, null);
    settle(*reactor);
    Recorder operation;
    Hook hook([&] { reactor->io_command(fetch(slot), operation); });
    reactor->before_round(hook);
    reactor->before_round(hook);
    EXPECT_EQ(hook.calls, 0);
    ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(hook.calls, 1);
    EXPECT_EQ(operation.calls, 1);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
    EXPECT_EQ(hook.calls, 1) << "once is once";
}

TEST(UringReactor, AHookMayAskForTheNextRoundAndMayGoAway) {
    auto reactor = open_reactor();
    settle(*reactor);
    Hook other([] {});
    Hook again([&] {
        if (again.calls < 3) reactor->before_round(again);
        reactor->before_round(other);
    });
    Hook gone([] { FAIL() << "it went away"; });
    reactor->before_round(other);
    reactor->before_round(gone);
    reactor->before_round(again);
    reactor->forget(gone);
    reactor->forget(gone);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(reactor->run_once(milliseconds(0)), ETIME);
    EXPECT_EQ(again.calls, 3);
    EXPECT_GE(other.calls, 1);
}

// ---- Polling -----------------------------------------------------------------------------------

TEST(UringReactor, AKernelThreadMayTakeTheSubmissions) {
    const Fd null = dev_null();
    auto reactor = open_reactor(
        {.entries = 4, .files = 2, .polling = SubmissionPolling{.idle = milliseconds(10)}});
    const FileSlot slot = add(*reactor, null);
    std::vector<Recorder> operations(300);
    for (int repeat = 1; repeat <= 3; ++repeat) {
        for (Recorder& operation : operations) {
            reactor->io_command(fetch(slot), operation);
        }
        int done = 0;
        while (done < 300 * repeat) {
            ASSERT_EQ(reactor->run_once(kLong), 0);
            done = 0;
            for (const Recorder& operation : operations) done += operation.calls;
        }
        // Long enough for it to fall asleep.
        std::this_thread::sleep_for(milliseconds(20));
    }
    for (const Recorder& operation : operations) EXPECT_EQ(operation.result, 0);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
}

TEST(UringReactor, APollingThreadOnACpuThatThereIsNot) {
    auto reactor = open_uring_reactor({.polling = SubmissionPolling{.cpu = 1U << 20}});
    ASSERT_FALSE(reactor);
    EXPECT_EQ(reactor.error().code, EINVAL);
    EXPECT_EQ(reactor.error().operation, "set up io_uring");
}

// ---- wake --------------------------------------------------------------------------------------

struct Sleeper final : Woken {
    void woken() noexcept override {
        ++calls;
        if (then) then();
    }
    int calls = 0;
    std::function<void()> then;
};

TEST(UringReactor, WhatIsWokenIsToldInOrderByOneCall) {
    auto reactor = open_reactor();
    settle(*reactor);
    std::vector<int> order;
    std::vector<Sleeper> sleepers(100);
    for (int i = 0; i < 100; ++i) {
        sleepers[static_cast<std::size_t>(i)].then = [&order, i] { order.push_back(i); };
    }
    std::thread([&] {
        const test::SystemCallCounter writes(__NR_write);
        for (Sleeper& sleeper : sleepers) reactor->wake(sleeper);
        EXPECT_EQ(writes.count(), 1U);
    }).join();
    ASSERT_EQ(reactor->run_once(kLong), 0);
    ASSERT_EQ(order.size(), 100U);
    EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST(UringReactor, WhatIsWokenMayWakeAgainAndMayBeGone) {
    auto reactor = open_reactor();
    Sleeper sleeper;
    sleeper.then = [&] {
        if (sleeper.calls < 5) reactor->wake(sleeper);
    };
    auto first = std::make_unique<Sleeper>();
    Sleeper second;
    first->then = [&] { first.reset(); };
    reactor->wake(*first);
    reactor->wake(sleeper);
    reactor->wake(second);
    while (sleeper.calls < 5) ASSERT_EQ(reactor->run_once(kLong), 0);
    EXPECT_EQ(first, nullptr);
    EXPECT_EQ(second.calls, 1);
}

// ---- close -------------------------------------------------------------------------------------

TEST(UringReactor, AfterCloseNothingCompletesAndOthersMayStillWake) {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    const Fd out(fds[0]);
    const Fd in(fds[1]);
    auto reactor = open_reactor();
    std::array<std::byte, 16> bytes{};
    const Submission read = read_of(out.get(), bytes);
    Recorder operation;
    reactor->submit(read, operation);
    EXPECT_EQ(reactor->run_once(milliseconds(1)), ETIME);
    reactor->close();
    ASSERT_TRUE(reactor->await_end(kLong));
    ASSERT_EQ(write(in.get(), "abc", 3), 3);
    Sleeper sleeper;
    reactor->wake(sleeper);
    auto kept = std::make_shared<int>(1);
    reactor->post([kept] {});
    reactor->close();
    reactor.reset();
    EXPECT_EQ(operation.calls, 0);
    EXPECT_EQ(sleeper.calls, 0);
    EXPECT_EQ(kept.use_count(), 1);
    EXPECT_EQ(bytes[0], std::byte{0}) << "the kernel touches no memory any more";
}

TEST(UringReactor, TheEndIsToldWhenTheKernelHasLetGo) {
    test::RingRunner ring;
    {
        const Fd holder(dup(ring.descriptor()));
        ring.reactor().close();
        EXPECT_FALSE(ring.reactor().await_end(milliseconds(20))) << "somebody has the ring still";
    }
    EXPECT_TRUE(ring.reactor().await_end(kLong));
    EXPECT_TRUE(ring.reactor().await_end(milliseconds(0))) << "and again";
}

// ---- post --------------------------------------------------------------------------------------

TEST(UringReactor, APostFromAnotherThreadEndsAWait) {
    auto reactor = open_reactor();
    const auto owner = std::this_thread::get_id();
    std::thread::id ran_on;
    bool called = false;
    std::promise<void> waiting;
    std::thread other([&] {
        waiting.get_future().wait();
        reactor->post([&] {
            ran_on = std::this_thread::get_id();
            called = true;
        });
    });
    waiting.set_value();
    while (!called) ASSERT_EQ(reactor->run_once(std::nullopt), 0);
    other.join();
    EXPECT_EQ(ran_on, owner);
}

TEST(UringReactor, PostsKeepTheirOrder) {
    auto reactor = open_reactor();
    std::vector<int> order;
    for (int i = 0; i < 100; ++i) reactor->post([&order, i] { order.push_back(i); });
    while (order.size() < 100) ASSERT_EQ(reactor->run_once(kLong), 0);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(UringReactor, NoPostOfManyThreadsIsLost) {
    constexpr int kThreads = 4;
    constexpr int kEach = 2000;
    auto reactor = open_reactor();
    int count = 0;
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            for (int each = 0; each < kEach; ++each) reactor->post([&count] { ++count; });
        });
    }
    while (count < kThreads * kEach) ASSERT_EQ(reactor->run_once(std::nullopt), 0);
    EXPECT_EQ(count, kThreads * kEach);
}

TEST(UringReactor, APostMayPost) {
    auto reactor = open_reactor();
    int depth = 0;
    std::function<void()> again = [&] {
        if (++depth < 10) reactor->post(again);
    };
    reactor->post(again);
    while (depth < 10) ASSERT_EQ(reactor->run_once(std::nullopt), 0);
}

TEST(UringReactor, WhatWasPostedAndNeverRanIsDestroyed) {
    auto kept = std::make_shared<int>(1);
    auto reactor = open_reactor();
    reactor->post([kept] {});
    EXPECT_EQ(kept.use_count(), 2);
    reactor.reset();
    EXPECT_EQ(kept.use_count(), 1);
}

}  // namespace
}  // namespace ashlar
