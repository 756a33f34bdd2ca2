// Arena: memory for the coroutine frames of one request.
#pragma once

#include <cstddef>

namespace ashlar {

// A stack of coroutine frames for one tag. Frames are freed in any order; the space of one is
// reused once those above it are free too. A frame that does not fit goes to the heap, so the size
// is a speed, not a limit.
class Arena {
public:
    // memory (owned by the caller, aligned to max_align_t) outlives the arena.
    Arena(std::byte* memory, std::size_t size) noexcept : memory_(memory), size_(size) {}
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Never null; throws std::bad_alloc when the heap is exhausted. arena may be null.
    static void* allocate_frame(Arena* arena, std::size_t size);
    static void free_frame(void* frame) noexcept;

    [[nodiscard]] std::size_t used() const noexcept { return used_; }

private:
    struct Header;  // before every frame

    std::byte* memory_;
    std::size_t size_;
    std::size_t used_ = 0;
    Header* top_ = nullptr;
};

}  // namespace ashlar
