// How a Submission becomes an entry of the submission queue.
#pragma once

#include <liburing.h>
#include <sys/socket.h>
#include <cstddef>
#include <cstdint>

#include <ashlar/io.h>

namespace ashlar {

// Of one transfer of any kind, in bytes: more has no place in the result.
inline constexpr std::size_t kSendMost = INT32_MAX;

// A transfer to or from memory or a registered buffer.
inline void fill_transfer(io_uring_sqe* sqe, std::uint8_t opcode, std::uint8_t fixed_opcode,
                          const Submission& what) noexcept {
    const Buffer& buffer = what.buffer;
    const auto* address =
        reinterpret_cast<const void*>(static_cast<std::uintptr_t>(buffer.address()));
    io_uring_prep_rw(buffer.is_memory() ? opcode : fixed_opcode, sqe, what.fd, address,
                     buffer.length(), what.offset);
    if (!buffer.is_memory()) sqe->buf_index = buffer.index();
    sqe->rw_flags = static_cast<int>(what.flags);  // also msg_flags
}

// A message of one piece is a plain send, which costs the kernel less.
inline void fill_message(io_uring_sqe* sqe, const Submission& what) noexcept {
    const auto* message = static_cast<const msghdr*>(what.address);
    const bool plain = message->msg_iovlen == 1 && message->msg_name == nullptr &&
                       message->msg_control == nullptr && message->msg_iov->iov_len <= kSendMost;
    if (plain) {
        const iovec& piece = *message->msg_iov;
        io_uring_prep_rw(IORING_OP_SEND, sqe, what.fd, piece.iov_base,
                         static_cast<unsigned>(piece.iov_len), 0);
    } else {
        io_uring_prep_rw(IORING_OP_SENDMSG, sqe, what.fd, message, 1, 0);
    }
    sqe->msg_flags = what.flags;
}

inline void fill_entry(io_uring_sqe* sqe, const Submission& what) noexcept {
    using Kind = Submission::Kind;
    const auto length = static_cast<unsigned>(what.length);
    switch (what.kind) {
        case Kind::read: return fill_transfer(sqe, IORING_OP_READ, IORING_OP_READ_FIXED, what);
        case Kind::write: return fill_transfer(sqe, IORING_OP_WRITE, IORING_OP_WRITE_FIXED, what);
        case Kind::recv: return fill_transfer(sqe, IORING_OP_RECV, IORING_OP_READ_FIXED, what);
        case Kind::send: return fill_transfer(sqe, IORING_OP_SEND, IORING_OP_WRITE_FIXED, what);
        case Kind::send_zero_copy:
            fill_transfer(sqe, IORING_OP_SEND_ZC, IORING_OP_SEND_ZC, what);
            if (!what.buffer.is_memory()) sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
            return;
        case Kind::sendmsg: return fill_message(sqe, what);
        case Kind::recvmsg:
            io_uring_prep_rw(IORING_OP_RECVMSG, sqe, what.fd, what.address, 1, 0);
            sqe->msg_flags = what.flags;
            return;
        case Kind::readv:
            return io_uring_prep_rw(IORING_OP_READV, sqe, what.fd, what.address, length,
                                    what.offset);
        case Kind::writev:
            return io_uring_prep_rw(IORING_OP_WRITEV, sqe, what.fd, what.address, length,
                                    what.offset);
        case Kind::fsync: return io_uring_prep_fsync(sqe, what.fd, 0);
        case Kind::fdatasync: return io_uring_prep_fsync(sqe, what.fd, IORING_FSYNC_DATASYNC);
        case Kind::fallocate:
            io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, what.fd, nullptr, what.flags, what.offset);
            sqe->addr = what.length;
            return;
        case Kind::connect:
            return io_uring_prep_rw(IORING_OP_CONNECT, sqe, what.fd, what.address, 0, what.length);
        case Kind::poll: return io_uring_prep_poll_add(sqe, what.fd, what.flags);
        case Kind::sleep: return io_uring_prep_rw(IORING_OP_TIMEOUT, sqe, -1, &what.time, 1, 0);
    }
    io_uring_prep_nop(sqe);
}

}  // namespace ashlar
