#include <ashlar/arena.h>

#include <new>

#include "base/units.h"

namespace ashlar {

// Keeps the frame aligned as operator new promises.
struct alignas(alignof(std::max_align_t)) Arena::Header {
    Arena* arena;   // null: the frame is from the heap, or free
    Header* below;  // the frame that was the top before it
};

void* Arena::allocate_frame(Arena* arena, std::size_t size) {
    const std::size_t whole = round_up(sizeof(Header) + size, alignof(Header));
    if (arena == nullptr || arena->size_ - arena->used_ < whole) {
        return new (::operator new(whole)) Header{nullptr, nullptr} + 1;
    }
    arena->top_ = new (arena->memory_ + arena->used_) Header{arena, arena->top_};
    arena->used_ += whole;
    return arena->top_ + 1;
}

void Arena::free_frame(void* frame) noexcept {
    Header* const header = static_cast<Header*>(frame) - 1;
    Arena* const arena = header->arena;
    if (arena == nullptr) {
        ::operator delete(header);
        return;
    }
    header->arena = nullptr;  // free
    while (arena->top_ != nullptr && arena->top_->arena == nullptr) {
        arena->used_ =
            static_cast<std::size_t>(reinterpret_cast<std::byte*>(arena->top_) - arena->memory_);
        arena->top_ = arena->top_->below;
    }
}

}  // namespace ashlar
