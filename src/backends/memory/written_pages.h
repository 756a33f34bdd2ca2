// WrittenPages: which pages of a memory file may hold something. Through a mapping a page of a
// sparse file is taken also when it is only read; so what nobody wrote must not be touched.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ashlar/result.h>
#include <ashlar/types.h>

#include "base/fd.h"

namespace ashlar::memory {

// A bit for each page: set before the page is written, cleared when it is given back. All other
// pages are zeroes.
//
// Thread: any. A range is marked again after it was written: a discard of the same pages may have
// cleared their bits in between, and data without its bit would come to light at a later write.
class WrittenPages {
public:
    // page: bytes, a power of two. size: bytes, as large as the file may become. What is not
    // marked costs no memory. Errors: ENOMEM.
    [[nodiscard]] static Result<WrittenPages> make(std::uint64_t size, std::uint64_t page);

    // Marks what the file has by now.
    void find(int fd, std::uint64_t size) noexcept;
    // Every page that the range touches.
    void mark(Range range) noexcept;
    // The range: whole pages.
    void clear(Range range) noexcept;

    // From offset on, up to end at most, all pages are written, or none is.
    struct Run {
        std::uint64_t end = 0;
        bool written = false;
    };
    [[nodiscard]] Run run(std::uint64_t offset, std::uint64_t end) const noexcept;
    [[nodiscard]] bool all(Range range) const noexcept {
        const std::uint64_t end = range.offset + range.length;
        const Run first = run(range.offset, end);
        return first.written && first.end == end;
    }
    [[nodiscard]] bool has(std::uint64_t offset) const noexcept {
        return run(offset, offset + 1).written;
    }

private:
    WrittenPages(Mapping bits, unsigned page_shift) noexcept
        : bits_(std::move(bits)), page_shift_(page_shift) {}

    [[nodiscard]] std::atomic_ref<std::uint64_t> word(std::uint64_t index) const noexcept {
        return std::atomic_ref(reinterpret_cast<std::uint64_t*>(bits_.data())[index]);
    }
    // Calls visit(word, bits) for the words of pages [first, end).
    template <class Visit>
    void for_each_word(std::uint64_t first, std::uint64_t end, const Visit& visit) const noexcept;

    Mapping bits_;
    unsigned page_shift_;
};

}  // namespace ashlar::memory
