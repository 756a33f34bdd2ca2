#include "backends/memory/written_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace ashlar::memory {
namespace {

constexpr std::uint64_t kWordBits = 64;
// Each costs two system calls.
constexpr unsigned kPiecesMost = 1 << 18;

}  // namespace

Result<WrittenPages> WrittenPages::make(std::uint64_t size, std::uint64_t page) {
    const auto shift = static_cast<unsigned>(std::countr_zero(page));
    const std::uint64_t bytes = ((size >> shift) / kWordBits + 1) * sizeof(std::uint64_t);
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) {
        return std::unexpected(Error{.operation = "open memory backend",
                                     .code = errno,
                                     .detail = "no address space for the map of its pages"});
    }
    Mapping bits(found, bytes);
    // As the disk: a process may lock all that it maps, a fork would copy page tables.
    static_cast<void>(munlock(found, bytes));
    static_cast<void>(madvise(found, bytes, MADV_DONTFORK));
    return WrittenPages(std::move(bits), shift);
}

// A file system that cannot tell has data everywhere. So has what is left of a file in very many
// pieces: there, reading takes pages.
void WrittenPages::find(int fd, std::uint64_t size) noexcept {
    struct stat about{};
    if (fstat(fd, &about) == 0 && about.st_blocks == 0) return;
    std::uint64_t at = 0;
    for (unsigned pieces = 0; at < size; ++pieces) {
        const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
        if (data < 0 && errno == ENXIO) return;
        const off_t hole = data < 0 ? data : lseek(fd, data, SEEK_HOLE);
        if (hole < 0 || pieces == kPiecesMost) return mark({at, size - at});
        const auto from = static_cast<std::uint64_t>(data);
        at = static_cast<std::uint64_t>(hole);
        if (from < size) mark({from, std::min(at, size) - from});
    }
}

template <class Visit>
void WrittenPages::for_each_word(std::uint64_t first, std::uint64_t end,
                                 const Visit& visit) const noexcept {
    while (first < end) {
        const std::uint64_t within = first % kWordBits;
        const std::uint64_t count = std::min(kWordBits - within, end - first);
        visit(word(first / kWordBits), (~std::uint64_t{0} >> (kWordBits - count)) << within);
        first += count;
    }
}

// A word is written only when it changes: queues would take it from each other's caches.
void WrittenPages::mark(Range range) noexcept {
    if (range.length == 0) return;
    // What was written before is seen before the bits are looked at.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const std::uint64_t last = (range.offset + range.length - 1) >> page_shift_;
    for_each_word(range.offset >> page_shift_, last + 1,
                  [](std::atomic_ref<std::uint64_t> word, std::uint64_t bits) noexcept {
                      if ((word.load(std::memory_order_relaxed) & bits) == bits) return;
                      word.fetch_or(bits, std::memory_order_relaxed);
                  });
}

void WrittenPages::clear(Range range) noexcept {
    const std::uint64_t end = (range.offset + range.length) >> page_shift_;
    for_each_word(range.offset >> page_shift_, end,
                  [](std::atomic_ref<std::uint64_t> word, std::uint64_t bits) noexcept {
                      if ((word.load(std::memory_order_relaxed) & bits) == 0) return;
                      word.fetch_and(~bits, std::memory_order_seq_cst);
                  });
}

// Each word is read once: what changes meanwhile must not end the run before it began.
WrittenPages::Run WrittenPages::run(std::uint64_t offset, std::uint64_t end) const noexcept {
    std::uint64_t page = offset >> page_shift_;
    const std::uint64_t pages_end = ((end - 1) >> page_shift_) + 1;
    std::uint64_t bits = word(page / kWordBits).load(std::memory_order_relaxed);
    const bool written = (bits >> page % kWordBits & 1) != 0;
    while (true) {
        const std::uint64_t same = (written ? bits : ~bits) >> page % kWordBits;
        const auto count = static_cast<std::uint64_t>(std::countr_one(same));
        page += count;
        if (count == 0 || page % kWordBits != 0 || page >= pages_end) break;
        bits = word(page / kWordBits).load(std::memory_order_relaxed);
    }
    return {.end = std::min(end, page << page_shift_), .written = written};
}

}  // namespace ashlar::memory
