// Groups of provided buffers, by receiving into them.
#include "reactor/uring_buffer_group.h"

#include <sys/socket.h>
#include <array>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace ashlar {
namespace {

constexpr unsigned kCount = 8;
constexpr std::size_t kSize = 64;
constexpr std::uint16_t kGroup = 3;

class BufferGroupTest : public testing::Test {
protected:
    BufferGroupTest() {
        EXPECT_EQ(io_uring_queue_init(8, &ring, 0), 0);
        int fds[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        sender = Fd(fds[0]);
        receiver = Fd(fds[1]);
    }
    ~BufferGroupTest() override { io_uring_queue_exit(&ring); }

    // Receives a message into a buffer of the group. Answers the buffer, or a negative errno.
    int receive(const std::string& message) {
        EXPECT_EQ(send(sender.get(), message.data(), message.size(), 0),
                  static_cast<ssize_t>(message.size()));
        io_uring_sqe* sqe = io_uring_get_sqe(&ring);
        io_uring_prep_recv(sqe, receiver.get(), nullptr, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = kGroup;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_cqe* cqe = nullptr;
        if (io_uring_peek_cqe(&ring, &cqe) != 0) return -EIO;
        const int result = cqe->res;
        const std::uint32_t flags = cqe->flags;
        io_uring_cqe_seen(&ring, cqe);
        if (result < 0) return result;
        EXPECT_EQ(result, static_cast<int>(std::min(message.size(), kSize)));
        EXPECT_NE(flags & IORING_CQE_F_BUFFER, 0U);
        return static_cast<int>(flags >> 16);
    }
    [[nodiscard]] std::string content_of(int buffer, std::size_t length) const {
        const auto* at = memory.data() + static_cast<std::size_t>(buffer) * kSize;
        return {reinterpret_cast<const char*>(at), length};
    }

    io_uring ring{};
    Fd sender, receiver;
    std::vector<std::byte> memory = std::vector<std::byte>(kCount * kSize);
    BufferGroup group{memory, kCount};
};

TEST_F(BufferGroupTest, EveryBufferIsUsedOnceThenNoneIsLeft) {
    ASSERT_EQ(group.open(ring, kGroup), 0);
    std::set<int> used;
    for (unsigned i = 0; i < kCount; ++i) {
        const std::string message = "message " + std::to_string(i);
        const int buffer = receive(message);
        ASSERT_GE(buffer, 0);
        EXPECT_EQ(content_of(buffer, message.size()), message);
        used.insert(buffer);
    }
    EXPECT_EQ(used.size(), std::size_t{kCount});
    EXPECT_EQ(*used.rbegin(), static_cast<int>(kCount) - 1);
    EXPECT_EQ(receive("one too many"), -ENOBUFS);
}

TEST_F(BufferGroupTest, WhatIsGivenBackIsUsedAgain) {
    ASSERT_EQ(group.open(ring, kGroup), 0);
    // Often enough to go around the ring's 16 bits.
    for (int i = 0; i < 70'000; ++i) {
        const int buffer = receive("x");
        ASSERT_GE(buffer, 0) << i;
        group.add(static_cast<std::uint16_t>(buffer));
    }
}

TEST_F(BufferGroupTest, NothingIsWrittenPastABuffer) {
    ASSERT_EQ(group.open(ring, kGroup), 0);
    const int buffer = receive(std::string(kSize * 2, 'y'));
    ASSERT_GE(buffer, 0);
    for (std::size_t i = 0; i < memory.size(); ++i) {
        const bool inside = i / kSize == static_cast<std::size_t>(buffer);
        ASSERT_EQ(memory[i], inside ? std::byte{'y'} : std::byte{0}) << i;
    }
}

TEST_F(BufferGroupTest, AnIdIsTakenOnce) {
    ASSERT_EQ(group.open(ring, kGroup), 0);
    BufferGroup second(memory, kCount);
    EXPECT_EQ(second.open(ring, kGroup), EEXIST);
}

}  // namespace
}  // namespace ashlar
