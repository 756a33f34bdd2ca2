// A group of provided buffers: memory that the kernel takes a piece of for each completion.
#pragma once

#include <liburing.h>
#include <sys/mman.h>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"

namespace ashlar {

// The kernel's side of a group of provided buffers.
class BufferGroup {
public:
    BufferGroup(std::span<std::byte> memory, unsigned count) noexcept
        : memory_(memory.data()),
          size_(static_cast<unsigned>(memory.size() / count)),
          mask_(static_cast<std::uint16_t>(count - 1)) {}

    int open(io_uring& ring, std::uint16_t id) {
        const unsigned count = mask_ + 1U;
        const std::size_t bytes = count * sizeof(io_uring_buf);
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (memory == MAP_FAILED) return errno;
        entries_ = Mapping(memory, bytes);
        // A child must not take the pages that the kernel has pinned.
        static_cast<void>(madvise(memory, bytes, MADV_DONTFORK));
        io_uring_buf_reg registration{};
        registration.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
        registration.ring_entries = count;
        registration.bgid = id;
        const int result = io_uring_register_buf_ring(&ring, &registration, 0);
        if (result < 0) return -result;
        for (unsigned buffer = 0; buffer < count; ++buffer) {
            add(static_cast<std::uint16_t>(buffer));
        }
        return 0;
    }
    void add(std::uint16_t buffer) noexcept {
        auto* entries = reinterpret_cast<io_uring_buf*>(entries_.data());
        io_uring_buf& entry = entries[tail_ & mask_];
        entry.addr = reinterpret_cast<std::uintptr_t>(memory_) + std::size_t{buffer} * size_;
        entry.len = size_;
        entry.bid = buffer;
        ++tail_;
        // The tail shares its place with the reserved field of the first entry.
        std::atomic_ref(entries[0].resv).store(tail_, std::memory_order_release);
    }

private:
    std::byte* memory_;
    unsigned size_;
    std::uint16_t mask_;
    std::uint16_t tail_ = 0;
    Mapping entries_;
};

}  // namespace ashlar
