#include <ashlar/arena.h>

#include <cstdint>
#include <new>

#include "base/units.h"

namespace ashlar {
namespace {

// Before every frame: where it came from. Keeps the frame aligned as operator new promises.
struct alignas(alignof(std::max_align_t)) FrameHeader {
    Arena* arena;
};

constexpr std::size_t kAlignment = alignof(std::max_align_t);

std::size_t with_header(std::size_t size) noexcept {
    return round_up(sizeof(FrameHeader) + size, kAlignment);
}

}  // namespace

void* Arena::allocate_frame(Arena* arena, std::size_t size) {
    const std::size_t whole = with_header(size);
    std::byte* memory = nullptr;
    if (arena != nullptr && arena->size_ - arena->used_ >= whole) {
        memory = arena->memory_ + arena->used_;
        arena->used_ += whole;
        ++arena->frames_;
    } else {
        memory = static_cast<std::byte*>(::operator new(whole));
        arena = nullptr;
    }
    new (memory) FrameHeader{arena};
    return memory + sizeof(FrameHeader);
}

void Arena::free_frame(void* frame, std::size_t size) noexcept {
    std::byte* memory = static_cast<std::byte*>(frame) - sizeof(FrameHeader);
    Arena* arena = std::launder(reinterpret_cast<FrameHeader*>(memory))->arena;
    if (arena == nullptr) {
        ::operator delete(memory);
        return;
    }
    const std::size_t whole = with_header(size);
    if (memory + whole == arena->memory_ + arena->used_) arena->used_ -= whole;
    if (--arena->frames_ == 0) arena->used_ = 0;
}

}  // namespace ashlar
