// Every operation of Io on a real ring: that it does what its system call does; and how operations
// end when they are cancelled, or when their bound has passed.
#include "core/io_scope.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/fd.h"
#include "support/fake_reactor.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// A task that awaits the one operation that `make` makes of an Io.
template <class Make>
Task<> await_one(Io& io, Make make) {
    co_return co_await make(io);
}

struct Pair {
    Fd first, second;
};
Pair make_pipe() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    return {Fd(fds[0]), Fd(fds[1])};
}
Pair make_sockets() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        throw std::runtime_error("socketpair");
    }
    return {Fd(fds[0]), Fd(fds[1])};
}
struct Listener {
    Fd fd{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    Listener() {
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof(address);
        if (bind(fd.get(), generic(), sizeof(address)) != 0 || listen(fd.get(), 8) != 0 ||
            getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
            throw std::runtime_error("listen");
        }
    }
    [[nodiscard]] const sockaddr* generic() const {
        return reinterpret_cast<const sockaddr*>(&address);
    }
};
Pair make_connection() {
    const Listener listener;
    Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(client.get(), listener.generic(), sizeof(listener.address)) != 0) {
        throw std::runtime_error("connect");
    }
    return {std::move(client), Fd(accept(listener.fd.get(), nullptr, nullptr))};
}

class IoTest : public testing::Test {
protected:
    template <class Make>
    IoResult run(Make make) {
        return ring.run(await_one(ring.io(), make));
    }
    static Buffer of(std::string& text) {
        return Buffer::memory(reinterpret_cast<std::byte*>(text.data()),
                              static_cast<std::uint32_t>(text.size()));
    }
    static Fd file_with(const std::string& content) {
        Fd file(memfd_create("file", MFD_CLOEXEC));
        EXPECT_EQ(write(file.get(), content.data(), content.size()),
                  static_cast<ssize_t>(content.size()));
        return file;
    }
    static std::string content_of(const Fd& file) {
        std::string content(1000, '\0');
        const ssize_t count = pread(file.get(), content.data(), content.size(), 0);
        content.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
        return content;
    }

    test::RingRunner ring;
    std::string data = std::string(10, '.');
};

// ---- Files -------------------------------------------------------------------------------------

TEST_F(IoTest, Read) {
    const Fd file = file_with("0123456789abcdef");
    const auto read_at = [&](std::uint64_t offset) {
        return run([&, offset](Io& io) { return io.read(file.get(), of(data), offset); });
    };
    EXPECT_EQ(read_at(3), IoResult::bytes(10));
    EXPECT_EQ(data, "3456789abc");
    EXPECT_EQ(read_at(12), IoResult::bytes(4)) << "short at the end, as with pread";
    EXPECT_EQ(data, "cdef789abc");
    EXPECT_EQ(read_at(16), IoResult::bytes(0));
    EXPECT_EQ(run([&](Io& io) { return io.read(-1, of(data), 0); }).error(), EBADF);
    const Fd directory(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    EXPECT_EQ(run([&](Io& io) { return io.read(directory.get(), of(data), 0); }).error(), EISDIR);
    EXPECT_EQ(
        run([&](Io& io) { return io.read(file.get(), Buffer::memory(nullptr, 8), 0); }).error(),
        EFAULT);
}

TEST_F(IoTest, Write) {
    const Fd file = file_with("................");
    data = "0123456789";
    EXPECT_EQ(run([&](Io& io) { return io.write(file.get(), of(data), 2); }), IoResult::bytes(10));
    EXPECT_EQ(content_of(file), "..0123456789....");
    const Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(run([&](Io& io) { return io.write(full.get(), of(data), 0); }).error(), ENOSPC);
    const Fd reader(open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(run([&](Io& io) { return io.write(reader.get(), of(data), 0); }).error(), EBADF);
}

TEST_F(IoTest, FlagsOfReadAndWriteReachTheKernel) {
    const Fd file = file_with("abcdef");
    data = "X";
    EXPECT_EQ(run([&](Io& io) { return io.write(file.get(), of(data), 0, RWF_APPEND); }).count(),
              1U);
    EXPECT_EQ(content_of(file), "abcdefX");
    EXPECT_EQ(run([&](Io& io) { return io.write(file.get(), of(data), 0, RWF_DSYNC); }).count(),
              1U);
    EXPECT_EQ(run([&](Io& io) { return io.read(file.get(), of(data), 0, 1 << 30); }).error(),
              EOPNOTSUPP);
}

TEST_F(IoTest, ReadvAndWritev) {
    const Fd file = file_with("");
    std::string first = "abc", none, second = "defgh";
    std::array<iovec, 3> vectors{iovec{first.data(), 3}, iovec{none.data(), 0},
                                 iovec{second.data(), 5}};
    EXPECT_EQ(run([&](Io& io) { return io.writev(file.get(), vectors, 2); }), IoResult::bytes(8));
    EXPECT_EQ(content_of(file), std::string("\0\0abcdefgh", 10));
    first = "...";
    second = ".....";
    EXPECT_EQ(run([&](Io& io) { return io.readv(file.get(), vectors, 4); }), IoResult::bytes(6))
        << "short at the end";
    EXPECT_EQ(first + second, "cdefgh..");
    EXPECT_EQ(run([&](Io& io) { return io.readv(-1, vectors, 0); }).error(), EBADF);
    EXPECT_EQ(run([&](Io& io) { return io.writev(-1, vectors, 0); }).error(), EBADF);
}

TEST_F(IoTest, FsyncAndFdatasync) {
    const Fd file = file_with("abc");
    EXPECT_EQ(run([&](Io& io) { return io.fsync(file.get()); }), IoResult{});
    EXPECT_EQ(run([&](Io& io) { return io.fdatasync(file.get()); }), IoResult{});
    const Pair pipe = make_pipe();
    EXPECT_EQ(run([&](Io& io) { return io.fsync(pipe.first.get()); }).error(), EINVAL);
    EXPECT_EQ(run([&](Io& io) { return io.fdatasync(pipe.first.get()); }).error(), EINVAL);
}

TEST_F(IoTest, Fallocate) {
    constexpr std::uint64_t kFar = std::uint64_t{5} << 30;  // more than 32 bits hold
    const Fd file = file_with("abcdefgh");
    EXPECT_EQ(run([&](Io& io) { return io.fallocate(file.get(), 0, {kFar, 4096}); }), IoResult{});
    struct stat status{};
    ASSERT_EQ(fstat(file.get(), &status), 0);
    EXPECT_EQ(static_cast<std::uint64_t>(status.st_size), kFar + 4096);
    EXPECT_GE(status.st_blocks, 16) << "the space is taken";
    const auto punch = [&](Range range) {
        return run([&, range](Io& io) {
            return io.fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range);
        });
    };
    EXPECT_EQ(punch({2, 3}), IoResult{});
    EXPECT_EQ(content_of(file).substr(0, 8), std::string("ab\0\0\0fgh", 8));
    EXPECT_EQ(punch({0, kFar + 4096}), IoResult{});
    ASSERT_EQ(fstat(file.get(), &status), 0);
    EXPECT_EQ(status.st_blocks, 0);
    EXPECT_EQ(run([&](Io& io) { return io.fallocate(file.get(), 1 << 20, {0, 1}); }).error(),
              EOPNOTSUPP);
    EXPECT_EQ(run([&](Io& io) { return io.fallocate(file.get(), 0, {0, 0}); }).error(), EINVAL);
}

// ---- Sockets -----------------------------------------------------------------------------------

TEST_F(IoTest, SendAndRecv) {
    Pair sockets = make_sockets();
    const int first = sockets.first.get();
    const int second = sockets.second.get();
    std::string word = "hello";
    EXPECT_EQ(run([&](Io& io) { return io.send(first, of(word)); }), IoResult::bytes(5));
    EXPECT_EQ(run([&](Io& io) { return io.recv(second, of(data), MSG_PEEK); }), IoResult::bytes(5))
        << "short: no more is there";
    EXPECT_EQ(data, "hello.....");
    EXPECT_EQ(run([&](Io& io) { return io.recv(second, of(data)); }), IoResult::bytes(5))
        << "it was looked at, not taken";
    EXPECT_EQ(run([&](Io& io) { return io.recv(second, of(data), MSG_DONTWAIT); }).error(), EAGAIN);
    sockets.second.reset();
    EXPECT_EQ(run([&](Io& io) { return io.recv(first, of(data)); }), IoResult::bytes(0));
    EXPECT_EQ(run([&](Io& io) { return io.send(first, of(word), MSG_NOSIGNAL); }).error(), EPIPE);
    EXPECT_EQ(run([&](Io& io) { return io.recv(-1, of(data)); }).error(), EBADF);
}

TEST_F(IoTest, RecvWaitsForWhatComesLater) {
    const Pair sockets = make_sockets();
    const int second = sockets.second.get();
    Task<> task =
        await_one(ring.io(), [&](Io& io) { return io.recv(second, of(data), MSG_WAITALL); });
    ASSERT_EQ(send(sockets.first.get(), "01234", 5, 0), 5);
    EXPECT_EQ(ring.reactor().run_once(20ms), ETIME);
    EXPECT_FALSE(task.done());
    ASSERT_EQ(send(sockets.first.get(), "56789", 5, 0), 5);
    EXPECT_EQ(ring.run(std::move(task)), IoResult::bytes(10));
    EXPECT_EQ(data, "0123456789");
}

TEST_F(IoTest, SendZeroCopy) {
    const Pair connection = make_connection();
    std::string large(100'000, 'x');
    large.back() = 'y';
    EXPECT_EQ(run([&](Io& io) { return io.send_zero_copy(connection.first.get(), of(large)); }),
              IoResult::bytes(100'000));
    // The result says that the kernel has let go.
    std::string received(large.size(), '.');
    const std::string sent = large;
    large.assign(large.size(), 'z');
    ASSERT_EQ(recv(connection.second.get(), received.data(), received.size(), MSG_WAITALL),
              static_cast<ssize_t>(sent.size()));
    EXPECT_EQ(received, sent);
    const Pair pipe = make_pipe();
    EXPECT_EQ(run([&](Io& io) { return io.send_zero_copy(pipe.second.get(), of(large)); }).error(),
              ENOTSOCK);
}

TEST_F(IoTest, Connect) {
    const Listener listener;
    const auto connect_to = [&](const sockaddr_in& address) {
        const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return run([&](Io& io) {
            return io.connect(client.get(), reinterpret_cast<const sockaddr*>(&address),
                              sizeof(address));
        });
    };
    EXPECT_EQ(connect_to(listener.address), IoResult{});
    const Fd served(accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EXPECT_TRUE(served.valid());
    sockaddr_in nobody{};
    {
        const Listener gone;
        nobody = gone.address;
    }
    EXPECT_EQ(connect_to(nobody).error(), ECONNREFUSED);
}

TEST_F(IoTest, Poll) {
    const Pair sockets = make_sockets();
    const int first = sockets.first.get();
    EXPECT_EQ(run([&](Io& io) { return io.poll(first, POLLOUT); }), IoResult::bytes(POLLOUT));
    Task<> task = await_one(ring.io(), [&](Io& io) { return io.poll(first, POLLIN); });
    EXPECT_EQ(ring.reactor().run_once(5ms), ETIME) << "nothing to read yet";
    ASSERT_EQ(send(sockets.second.get(), "x", 1, 0), 1);
    EXPECT_EQ(ring.run(std::move(task)), IoResult::bytes(POLLIN));
    EXPECT_EQ(run([&](Io& io) { return io.poll(-1, POLLIN); }).error(), EBADF);
}

TEST_F(IoTest, Sleep) {
    const auto before = Clock::now();
    EXPECT_EQ(run([](Io& io) { return io.sleep(20ms); }), IoResult{});
    EXPECT_GE(Clock::now() - before, 20ms);
    EXPECT_EQ(run([](Io& io) { return io.sleep(0ns); }), IoResult{});
    EXPECT_EQ(IoOperation::to_time(3s + 7ns).seconds, 3);
    EXPECT_EQ(IoOperation::to_time(3s + 7ns).nanoseconds, 7);
}

// ---- Registered buffers ------------------------------------------------------------------------

TEST_F(IoTest, RegisteredBuffersToAndFromFiles) {
    const test::RegisteredMemory memory(ring, 8192);
    std::memset(memory.bytes().data(), 'a', 8192);
    std::memcpy(memory.bytes().data() + 100, "0123456789", 10);
    const Fd file = file_with("");
    EXPECT_EQ(run([&](Io& io) { return io.write(file.get(), memory.buffer(100, 10), 3); }),
              IoResult::bytes(10));
    EXPECT_EQ(content_of(file), std::string("\0\0\0", 3) + "0123456789");
    EXPECT_EQ(run([&](Io& io) { return io.read(file.get(), memory.buffer().part(4096, 20), 8); }),
              IoResult::bytes(5));
    EXPECT_EQ(std::memcmp(memory.bytes().data() + 4095, "a56789aa", 8), 0);
    EXPECT_EQ(
        run([&](Io& io) { return io.read(file.get(), Buffer::registered(63, 0, 8), 0); }).error(),
        EFAULT)
        << "a slot that holds nothing";
}

TEST_F(IoTest, RegisteredBuffersToAndFromSockets) {
    const test::RegisteredMemory memory(ring, 4096);
    std::memcpy(memory.bytes().data(), "0123456789", 10);
    const Pair sockets = make_sockets();
    EXPECT_EQ(run([&](Io& io) { return io.send(sockets.first.get(), memory.buffer(2, 6)); }),
              IoResult::bytes(6));
    EXPECT_EQ(run([&](Io& io) { return io.recv(sockets.second.get(), memory.buffer(1000, 50)); }),
              IoResult::bytes(6));
    EXPECT_EQ(std::memcmp(memory.bytes().data() + 1000, "234567\0", 7), 0);
    const Pair connection = make_connection();
    EXPECT_EQ(run([&](Io& io) {
                  return io.send_zero_copy(connection.first.get(), memory.buffer(0, 10));
              }),
              IoResult::bytes(10));
    ASSERT_EQ(recv(connection.second.get(), data.data(), 10, MSG_WAITALL), 10);
    EXPECT_EQ(data, "0123456789");
}

// ---- Bounds ------------------------------------------------------------------------------------

TEST_F(IoTest, WhatTakesLongerThanItsBoundIsETIMEDOUT) {
    const Pair pipe = make_pipe();
    const Pair sockets = make_sockets();
    const auto before = Clock::now();
    EXPECT_EQ(
        run([&](Io& io) { return io.read(pipe.first.get(), of(data), 0).within(20ms); }).error(),
        ETIMEDOUT);
    EXPECT_GE(Clock::now() - before, 20ms);
    EXPECT_EQ(
        run([&](Io& io) { return io.recv(sockets.first.get(), of(data)).within(1ms); }).error(),
        ETIMEDOUT);
    EXPECT_EQ(run([&](Io& io) { return io.poll(pipe.first.get(), POLLIN).within(1ms); }).error(),
              ETIMEDOUT);
    // The read that ended so takes nothing that comes later.
    ASSERT_EQ(write(pipe.second.get(), "later", 5), 5);
    EXPECT_EQ(run([&](Io& io) { return io.read(pipe.first.get(), of(data), 0).within(1h); }),
              IoResult::bytes(5));
}

TEST_F(IoTest, ABoundThatIsOverAlreadyIsTheShortest) {
    const Pair pipe = make_pipe();
    for (const auto bound : {0ns, std::chrono::nanoseconds(-5s)}) {
        EXPECT_EQ(run([&](Io& io) {
                      return io.read(pipe.first.get(), of(data), 0).within(bound);
                  }).error(),
                  ETIMEDOUT);
    }
}

TEST_F(IoTest, WhatEndsInTimeHasItsOwnResult) {
    const Fd file = file_with("01234");
    for (int i = 0; i < 100; ++i) {
        ASSERT_EQ(run([&](Io& io) { return io.read(file.get(), of(data), 0).within(1h); }),
                  IoResult::bytes(5));
        ASSERT_EQ(run([&](Io& io) { return io.read(-1, of(data), 0).within(1h); }).error(), EBADF);
    }
    const Pair pipe = make_pipe();
    Task<> task = await_one(
        ring.io(), [&](Io& io) { return io.read(pipe.first.get(), of(data), 0).within(1h); });
    EXPECT_EQ(ring.reactor().run_once(5ms), ETIME);
    ASSERT_EQ(write(pipe.second.get(), "late", 4), 4);
    EXPECT_EQ(ring.run(std::move(task)), IoResult::bytes(4));
}

// What a full connection takes no more of.
void fill(int fd) {
    const std::vector<char> much(1 << 20);
    while (send(fd, much.data(), much.size(), MSG_DONTWAIT) > 0) {
    }
}

TEST_F(IoTest, SendsThatNobodyTakesAreETIMEDOUT) {
    const Pair connection = make_connection();
    fill(connection.first.get());
    std::string much(1 << 20, 'x');
    const int fd = connection.first.get();
    EXPECT_EQ(run([&](Io& io) { return io.send(fd, of(much)).within(5ms); }).error(), ETIMEDOUT);
    EXPECT_EQ(run([&](Io& io) { return io.send_zero_copy(fd, of(much)).within(5ms); }).error(),
              ETIMEDOUT);
}

// ---- Several at once ---------------------------------------------------------------------------

Task<> read_both(Io& io, int first, int second, Buffer into_first, Buffer into_second) {
    Task<> one = await_one(io, [=](Io& with) { return with.read(first, into_first, 0); });
    Task<> two = await_one(io, [=](Io& with) { return with.read(second, into_second, 0); });
    const IoResult second_result = co_await two;
    const IoResult first_result = co_await one;
    co_return IoResult::bytes(first_result.count() * 100 + second_result.count());
}

TEST_F(IoTest, TasksOfTheirOwnOverlap) {
    const Pair first = make_pipe();
    const Pair second = make_pipe();
    std::string one(10, '.'), two(10, '.');
    Task<> task = read_both(ring.io(), first.first.get(), second.first.get(), of(one), of(two));
    // The one that began first ends last.
    ASSERT_EQ(write(second.second.get(), "22", 2), 2);
    ring.run_until([&] { return two.starts_with("22"); });
    EXPECT_FALSE(task.done());
    ASSERT_EQ(write(first.second.get(), "1", 1), 1);
    EXPECT_EQ(ring.run(std::move(task)), IoResult::bytes(102));
}

Task<> sleep_and_tell(Io& io, std::chrono::milliseconds time,
                      std::vector<std::chrono::milliseconds>& told) {
    const IoResult result = co_await io.sleep(time);
    told.push_back(time);
    co_return result;
}

TEST_F(IoTest, SleepsOverlap) {
    std::vector<std::chrono::milliseconds> told;
    std::deque<Task<>> tasks;
    tasks.push_back(sleep_and_tell(ring.io(), 300ms, told));
    for (int i = 0; i < 20; ++i) tasks.push_back(sleep_and_tell(ring.io(), 20ms, told));
    for (Task<>& task : tasks) EXPECT_EQ(ring.run(std::move(task)), IoResult{});
    ASSERT_EQ(told.size(), 21U);
    EXPECT_EQ(told.back(), 300ms) << "one after the other the short ones take longer";
}

// More at once than a submission queue holds, with and without bounds.
void read_many(unsigned entries) {
    test::RingRunner ring(entries);
    Fd file(memfd_create("file", MFD_CLOEXEC));
    for (int i = 0; i < 200; ++i) {
        ASSERT_EQ(write(file.get(), &i, sizeof(i)), static_cast<ssize_t>(sizeof(i)));
    }
    std::vector<int> numbers(200, -1);
    std::deque<Task<>> tasks;
    for (std::size_t i = 0; i < 200; ++i) {
        const Buffer into = Buffer::memory(reinterpret_cast<std::byte*>(&numbers[i]), sizeof(int));
        tasks.push_back(await_one(ring.io(), [fd = file.get(), i, into](Io& io) {
            IoOperation plain = io.read(fd, into, i * sizeof(int));
            return i % 2 == 0 ? plain.within(1h) : io.read(fd, into, i * sizeof(int));
        }));
    }
    for (Task<>& task : tasks) EXPECT_EQ(ring.run(std::move(task)), IoResult::bytes(sizeof(int)));
    for (int i = 0; i < 200; ++i) EXPECT_EQ(numbers[static_cast<std::size_t>(i)], i);
}

TEST(Io, MoreAtOnceThanTheRingHasEntriesFor) { read_many(4); }
TEST(Io, ARingOfTheSmallestSize) { read_many(1); }

TEST(Io, BoundsLeaveWithWhatTheyBoundHoweverFullTheRingIs) {
    test::RingRunner ring(4);
    const Pair pipe = make_pipe();
    std::array<std::byte, 8> bytes{};
    const Buffer into = Buffer::memory(bytes.data(), 8);
    std::deque<Task<>> tasks;
    for (int i = 0; i < 25; ++i) {
        // An odd one in between, so that pairs begin everywhere.
        if (i % 3 == 0) tasks.push_back(await_one(ring.io(), [](Io& io) { return io.sleep(1us); }));
        tasks.push_back(await_one(ring.io(), [fd = pipe.first.get(), into](Io& io) {
            return io.read(fd, into, 0).within(5ms);
        }));
    }
    for (Task<>& task : tasks) {
        const IoResult result = ring.run(std::move(task));
        EXPECT_TRUE(result.ok() || result.error() == ETIMEDOUT) << result.error();
    }
}

Task<> count_down(Io& io, int depth) {
    const IoResult slept = co_await io.sleep(1us);
    if (!slept.ok()) co_return slept;
    if (depth == 0) co_return IoResult{};
    const IoResult below = co_await count_down(io, depth - 1);
    if (!below.ok()) co_return below;
    const IoResult again = co_await io.sleep(1us);
    co_return again.ok() ? IoResult::bytes(below.count() + 1) : again;
}

TEST_F(IoTest, NestedTasks) { EXPECT_EQ(ring.run(count_down(ring.io(), 10)).count(), 10U); }

// ---- Cancelling --------------------------------------------------------------------------------

TEST_F(IoTest, CancelEndsAllInFlightAndEverythingLater) {
    const Pair pipe = make_pipe();
    const Pair sockets = make_sockets();
    const int in = pipe.first.get();
    const int socket = sockets.first.get();
    std::vector<std::byte> bytes(64);
    const Buffer into = Buffer::memory(bytes.data(), 64);
    std::deque<Task<>> tasks;
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.read(in, into, 0); }));
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.read(in, into, 0).within(1h); }));
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.recv(socket, into); }));
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.recv(socket, into).within(1h); }));
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.poll(in, POLLIN); }));
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.sleep(1h); }));
    tasks.push_back(count_down(ring.io(), 1'000'000));
    static_cast<void>(ring.reactor().run_once(1ms));
    // Not with the kernel yet when it is cancelled.
    tasks.push_back(await_one(ring.io(), [=](Io& io) { return io.read(in, into, 0); }));
    EXPECT_FALSE(ring.scope().idle());
    int idle = 0;
    ring.scope().on_idle([](void* count) noexcept { ++*static_cast<int*>(count); }, &idle);
    ring.cancel();
    for (Task<>& task : tasks) EXPECT_EQ(ring.run(std::move(task)).error(), ECANCELED);
    EXPECT_TRUE(ring.scope().idle());
    EXPECT_EQ(idle, 1);

    const Task<> later = await_one(ring.io(), [=](Io& io) { return io.fsync(in); });
    ASSERT_TRUE(later.done());
    EXPECT_EQ(later.result().error(), ECANCELED);
    const Task<> offloaded = await_one(
        ring.io(), [](Io& io) { return io.offload([]() noexcept { return IoResult::bytes(1); }); });
    ASSERT_TRUE(offloaded.done());
    EXPECT_EQ(offloaded.result().error(), ECANCELED);
    EXPECT_EQ(idle, 1);
}

Task<> send_three(Io& io, int socket, const std::array<Buffer, 3>& texts) {
    const auto operation = [&](int i, std::uint8_t followers) {
        return IoOperation(io.scope(), {.kind = Submission::Kind::send,
                                        .fd = socket,
                                        .buffer = texts[static_cast<std::size_t>(i)],
                                        .followers = followers});
    };
    IoOperation first = operation(0, 2);
    IoOperation second = operation(1, 1);
    IoOperation third = operation(2, 0);
    first.start();
    second.start();
    third.start();
    // In whatever order they are awaited.
    const IoResult last = co_await third;
    const IoResult head = co_await first;
    const IoResult middle = co_await second;
    for (const IoResult one : {head, middle, last}) {
        if (!one.ok()) co_return one;
    }
    co_return IoResult::bytes(head.count() + middle.count() + last.count());
}

TEST_F(IoTest, StartedBeforeTheyAreAwaited) {
    const Pair sockets = make_sockets();
    std::array<std::string, 3> texts{"one ", "two ", "three"};
    const std::array<Buffer, 3> buffers{of(texts[0]), of(texts[1]), of(texts[2])};
    EXPECT_EQ(ring.run(send_three(ring.io(), sockets.first.get(), buffers)), IoResult::bytes(13));
    std::string got(20, '\0');
    got.resize(static_cast<std::size_t>(recv(sockets.second.get(), got.data(), 20, 0)));
    EXPECT_EQ(got, "one two three");
    EXPECT_EQ(ring.run(send_three(ring.io(), -1, buffers)).error(), EBADF);
    EXPECT_TRUE(ring.scope().idle());
}

TEST_F(IoTest, WhatIsStartedAfterCancelEndsThere) {
    std::array<std::string, 3> texts{"one ", "two ", "three"};
    const std::array<Buffer, 3> buffers{of(texts[0]), of(texts[1]), of(texts[2])};
    ring.cancel();
    EXPECT_EQ(ring.run(send_three(ring.io(), 1, buffers)).error(), ECANCELED);
}

// ---- What the ring says, played ----------------------------------------------------------------

class IoScopeTest : public testing::Test {
protected:
    using Kind = test::FakeReactor::Kind;
    Task<> start(std::uint64_t offset = 0, std::chrono::nanoseconds bound = 0ns) {
        return await_one(io, [=](Io& with) {
            IoOperation unbounded = with.read(5, Buffer{}, offset);
            return bound == 0ns ? with.read(5, Buffer{}, offset) : unbounded.within(bound);
        });
    }
    void end(std::uint64_t offset, std::int32_t result) {
        for (const auto& one : reactor.pending()) {
            if (one.submission->offset != offset) continue;
            return reactor.complete(reactor.place_of(one), result);
        }
        throw std::runtime_error("nothing pending");
    }
    void TearDown() override {
        if (scope.idle()) return;
        reactor.close();
        scope.thread_ends();
    }

    test::FakeReactor reactor;
    OffloadPool offload;
    IoScope scope{reactor, offload};
    Arena arena{nullptr, 0};
    Io io{arena, scope};
};

TEST_F(IoScopeTest, ABoundGoesAlongAndNoneIsZero) {
    const Task<> plain = start(1);
    const Task<> bounded = start(2, 3s + 4ns);
    ASSERT_EQ(reactor.pending().size(), 2U);
    EXPECT_EQ(reactor.pending()[0].submission->time.seconds, 0);
    EXPECT_EQ(reactor.pending()[0].submission->time.nanoseconds, 0);
    EXPECT_EQ(reactor.pending()[1].submission->time.seconds, 3);
    EXPECT_EQ(reactor.pending()[1].submission->time.nanoseconds, 4);
    EXPECT_EQ(reactor.pending()[1].submission->fd, 5);
    EXPECT_EQ(reactor.pending()[1].submission->offset, 2U);
    end(2, -ECANCELED);
    EXPECT_EQ(bounded.result().error(), ETIMEDOUT);
    end(1, 7);
    EXPECT_EQ(plain.result().count(), 7U);
}

TEST_F(IoScopeTest, ResultsKeepTheirErrno) {
    for (const int code : {EIO, EINTR, EAGAIN, ETIME, ETIMEDOUT}) {
        const Task<> task = start();
        end(0, -code);
        ASSERT_TRUE(task.done());
        EXPECT_EQ(task.result().error(), code);
    }
}

TEST_F(IoScopeTest, OperationsEndInAnyOrder) {
    std::deque<Task<>> tasks;
    for (std::uint64_t i = 0; i < 5; ++i) tasks.push_back(start(i));
    for (const std::uint64_t i : {2U, 4U, 0U, 1U, 3U}) {
        EXPECT_FALSE(scope.idle());
        end(i, static_cast<std::int32_t>(i));
        ASSERT_TRUE(tasks[i].done());
        EXPECT_EQ(tasks[i].result().count(), i);
    }
    EXPECT_TRUE(scope.idle());
}

TEST_F(IoScopeTest, CancellingAsksForTheEndOfEachAndWaitsForIt) {
    int idle = 0;
    scope.on_idle([](void* count) noexcept { ++*static_cast<int*>(count); }, &idle);
    const Task<> first = start(1);
    end(1, 0);
    EXPECT_TRUE(scope.idle());
    EXPECT_EQ(idle, 0) << "more may begin";
    const Task<> second = start(2, 1h);
    const Task<> third = start(3);
    scope.cancel_all();
    for (const auto& one : reactor.pending()) EXPECT_TRUE(one.cancelled);
    EXPECT_FALSE(second.done()) << "the kernel may still write";
    end(3, 512);
    EXPECT_EQ(third.result().count(), 512U) << "it was sooner than the cancellation";
    EXPECT_EQ(idle, 0);
    end(2, -ECANCELED);
    EXPECT_EQ(second.result().error(), ECANCELED) << "the bound has not passed";
    EXPECT_EQ(idle, 1);
}

TEST_F(IoScopeTest, SendZeroCopyEndsWithItsNotification) {
    const auto send = [this] {
        return await_one(io, [](Io& with) { return with.send_zero_copy(5, Buffer{}); });
    };
    const Task<> task = send();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 300, completion::more));
    EXPECT_FALSE(task.done()) << "the kernel still has the buffer";
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 0, completion::notification));
    ASSERT_TRUE(task.done());
    EXPECT_EQ(task.result().count(), 300U);
    const Task<> refused = send();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, -EPIPE, completion::more));
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 0, completion::notification));
    EXPECT_EQ(refused.result().error(), EPIPE);
    const Task<> at_once = send();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, -ENOTSOCK));
    EXPECT_EQ(at_once.result().error(), ENOTSOCK);
    const Task<> late = await_one(io, [](Io& with) {
        return with.send_zero_copy(5, Buffer{}).within(std::chrono::seconds(1));
    });
    ASSERT_TRUE(reactor.complete_first(Kind::submission, -ECANCELED, completion::more));
    ASSERT_TRUE(reactor.complete_first(Kind::submission, 0, completion::notification));
    EXPECT_EQ(late.result().error(), ETIMEDOUT);
    const Task<> cut = send();
    ASSERT_TRUE(reactor.complete_first(Kind::submission, -ECANCELED));
    EXPECT_EQ(cut.result().error(), ECANCELED) << "no bound was set";
}

TEST_F(IoScopeTest, WhatWaitsWhenTheRingEndsIsNeverResumed) {
    Task<> task = start();
    scope.cancel_all();
    reactor.close();
    scope.thread_ends();
    EXPECT_FALSE(task.done());
    EXPECT_TRUE(scope.idle());
    task = Task<>();  // its operation was in flight
    const Task<> later = start();
    ASSERT_TRUE(later.done());
    EXPECT_EQ(later.result().error(), ECANCELED);
}

using IoScopeDeathTest = IoScopeTest;

TEST_F(IoScopeDeathTest, AnOperationThatIsDestroyedWhileTheKernelHasIt) {
    auto task = std::make_unique<Task<>>(start());
    EXPECT_DEATH(task.reset(), "broken invariant: state_ != State::in_flight");
    end(0, 0);
}

}  // namespace
}  // namespace ashlar
