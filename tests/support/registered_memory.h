// RegisteredMemory: memory that is a registered buffer of a ring, so that what is done with such
// buffers can be seen. The driver's registered buffers are the pages of requests and start at 0; a
// registered buffer of memory is named by the address that it had when it was registered. So it is
// registered where 32 bits reach, and out of this process's reach there from then on: whoever takes
// that address for memory gets EFAULT.
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
        if (!name({.iov_base = registered_.data(), .iov_len = size})) {
            throw std::runtime_error("register memory: errno " + std::to_string(errno));
        }
        if (mprotect(registered_.data(), size, PROT_NONE) != 0) {
            throw std::runtime_error("mprotect");
        }
    }
    ~RegisteredMemory() {
        name({});
        ring_.reactor().release_buffers(index_, 1);
    }
    RegisteredMemory(const RegisteredMemory&) = delete;
    RegisteredMemory& operator=(const RegisteredMemory&) = delete;

    // The same memory, for this process.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept {
        return {view_.data(), view_.size()};
    }
    [[nodiscard]] Buffer buffer(std::uint32_t from, std::uint32_t length) const noexcept {
        const auto start = reinterpret_cast<std::uintptr_t>(registered_.data());
        return Buffer::registered(index_, static_cast<std::uint32_t>(start) + from, length);
    }
    [[nodiscard]] Buffer buffer() const noexcept {
        return buffer(0, static_cast<std::uint32_t>(view_.size()));
    }

private:
    void map(std::size_t size) {
        const Fd file(memfd_create("registered", MFD_CLOEXEC));
        if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
            throw std::runtime_error("memfd");
        }
        void* view = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
        if (view == MAP_FAILED) throw std::runtime_error("mmap");
        view_ = Mapping(view, size);
        for (std::uintptr_t at = 1U << 28; at < 0xffff'ffff - size; at += 1U << 24) {
            void* memory = mmap(reinterpret_cast<void*>(at), size, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_FIXED_NOREPLACE, file.get(), 0);
            if (memory == MAP_FAILED) continue;
            registered_ = Mapping(memory, size);
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
    Mapping view_;
    Mapping registered_;
    std::uint16_t index_ = 0;
};

}  // namespace ashlar::test
