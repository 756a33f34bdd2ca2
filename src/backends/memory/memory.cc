// The memory backend: one private mapping. The kernel's page table is the sparse map, so queues
// share no lock of ours: a page is taken by the first write to it and given back by madvise.
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

#include <ashlar/backends.h>

namespace ashlar {
namespace {

class Memory {
public:
    Memory(const Geometry& geometry, std::byte* bytes)
        : geometry_(geometry),
          bytes_(bytes),
          page_(static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))) {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { munmap(bytes_, geometry_.size); }

    [[nodiscard]] static std::string_view name() { return "memory"; }
    [[nodiscard]] std::uint64_t size() const { return geometry_.size; }
    [[nodiscard]] Geometry geometry() const { return geometry_; }

    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        std::memcpy(into.data(), bytes_ + offset, into.size());
        return {};
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        std::memcpy(bytes_ + offset, from.data(), from.size());
        return {};
    }
    std::byte* locate(Range range) noexcept { return bytes_ + range.offset; }
    IoResult discard(Range range) { return release(range); }
    IoResult write_zeroes(Range range, bool no_unmap) {
        if (!no_unmap) return release(range);
        std::memset(bytes_ + range.offset, 0, range.length);
        return {};
    }

private:
    // Whole pages go back to the system and read as zeroes; their edges are zeroed by hand.
    IoResult release(Range range) {
        const std::uint64_t end = range.offset + range.length;
        const std::uint64_t first = (range.offset + page_ - 1) / page_ * page_;
        const std::uint64_t last = end / page_ * page_;
        if (first >= last) {
            std::memset(bytes_ + range.offset, 0, range.length);
            return {};
        }
        std::memset(bytes_ + range.offset, 0, first - range.offset);
        std::memset(bytes_ + last, 0, end - last);
        if (madvise(bytes_ + first, last - first, MADV_DONTNEED) != 0) {
            return IoResult::from_errno(errno);
        }
        return {};
    }

    const Geometry geometry_;
    std::byte* const bytes_;
    const std::uint64_t page_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_memory(const MemoryOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    const std::uint64_t size = options.geometry.size;
    void* bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) {
        return std::unexpected(
            Error{.operation = "open memory backend",
                  .code = errno,
                  .detail = "no address space for " + std::to_string(size) + " bytes",
                  .hint = "ask for a smaller size"});
    }
    // A fork would copy the page tables of the whole disk, and share its pages until written.
    static_cast<void>(madvise(bytes, size, MADV_DONTFORK));
    // A core file shall not hold the disk.
    static_cast<void>(madvise(bytes, size, MADV_DONTDUMP));
    if (options.hugepages && madvise(bytes, size, MADV_HUGEPAGE) != 0) {
        const int code = errno;
        munmap(bytes, size);
        return std::unexpected(Error{.operation = "open memory backend",
                                     .code = code,
                                     .detail = "this kernel has no transparent huge pages",
                                     .hint = "leave hugepages off"});
    }
    if (!options.hugepages) {
        // Whatever the system's default is: sparse to the page. EINVAL: no huge pages to avoid.
        static_cast<void>(madvise(bytes, size, MADV_NOHUGEPAGE));
    }
    return make_backend(std::make_shared<Memory>(options.geometry, static_cast<std::byte*>(bytes)));
}

}  // namespace ashlar
