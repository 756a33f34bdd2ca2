// RegisteredMemory: memory that is a registered buffer of a ring, so that what is done with such
// buffers can be seen. The driver's registered buffers are the pages of requests and start at 0; a
// registered buffer of memory is named by its address, so this memory lies where 32 bits reach.
#pragma once

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include <ashlar/types.h>

#include "base/fd.h"
#include "support/ring_runner.h"

namespace ashlar::test {

// Thread: the ring's. Ends before the ring does.
class RegisteredMemory {
public:
    RegisteredMemory(RingRunner& ring, std::size_t size) : ring_(ring) {
        map(size);
        auto index = ring_.reactor().reserve_buffers(1);
        if (!index) throw std::runtime_error(index.error().message());
        index_ = *index;
        if (!name({.iov_base = memory_.data(), .iov_len = size})) {
            throw std::runtime_error("register memory: errno " + std::to_string(errno));
        }
    }
    ~RegisteredMemory() {
        name({});
        ring_.reactor().release_buffers(index_, 1);
    }
    RegisteredMemory(const RegisteredMemory&) = delete;
    RegisteredMemory& operator=(const RegisteredMemory&) = delete;

    [[nodiscard]] std::span<std::byte> bytes() const noexcept {
        return {memory_.data(), memory_.size()};
    }
    [[nodiscard]] Buffer buffer(std::uint32_t from, std::uint32_t length) const noexcept {
        const auto start = reinterpret_cast<std::uintptr_t>(memory_.data());
        return Buffer::registered(index_, static_cast<std::uint32_t>(start) + from, length);
    }
    [[nodiscard]] Buffer buffer() const noexcept {
        return buffer(0, static_cast<std::uint32_t>(memory_.size()));
    }

private:
    void map(std::size_t size) {
        for (std::uintptr_t at = 1U << 28; at < 0xffff'ffff - size; at += 1U << 24) {
            void* memory = mmap(reinterpret_cast<void*>(at), size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
            if (memory == MAP_FAILED) continue;
            memory_ = Mapping(memory, size);
            return;
        }
        throw std::runtime_error("no memory below 4 GiB");
    }
    // Which memory the slot is; none: it is empty again.
    bool name(const iovec& memory) const noexcept {
        io_uring_rsrc_update2 update{};
        update.offset = index_;
        update.data = reinterpret_cast<std::uintptr_t>(&memory);
        update.nr = 1;
        return syscall(__NR_io_uring_register, ring_.descriptor(), IORING_REGISTER_BUFFERS_UPDATE,
                       &update, sizeof(update)) == 1;
    }

    RingRunner& ring_;
    Mapping memory_;
    std::uint16_t index_ = 0;
};

}  // namespace ashlar::test
