// The memory backend: one mapping. The kernel's page table is the sparse map, so queues
// share no lock of ours: a page is taken by the first write to it and given back by madvise.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <ashlar/backends.h>

#include "base/fd.h"

namespace ashlar {
namespace {

class Memory {
public:
    Memory(const Geometry& geometry, std::byte* bytes, std::string identity)
        : geometry_(geometry),
          bytes_(bytes),
          identity_(std::move(identity)),
          page_(static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))) {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { munmap(bytes_, geometry_.size); }

    [[nodiscard]] static std::string_view name() { return "memory"; }
    [[nodiscard]] std::uint64_t size() const { return geometry_.size; }
    [[nodiscard]] Geometry geometry() const { return geometry_; }
    [[nodiscard]] const std::string& identity() const { return identity_; }

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
        // Of a shared mapping the file itself must let go.
        const int advice = identity_.empty() ? MADV_DONTNEED : MADV_REMOVE;
        if (madvise(bytes_ + first, last - first, advice) != 0) {
            return IoResult::from_errno(errno);
        }
        return {};
    }

    const Geometry geometry_;
    std::byte* const bytes_;
    const std::string identity_;  // empty without a file
    const std::uint64_t page_;
};

Error open_error(int code, std::string detail = {}, std::string hint = {}) {
    return Error{.operation = "open memory backend",
                 .code = code,
                 .detail = std::move(detail),
                 .hint = std::move(hint)};
}

struct MemoryFile {
    Fd fd;
    std::string identity;
};

Result<MemoryFile> open_memory_file(const std::string& path, std::uint64_t size) {
    Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid()) return std::unexpected(open_error(errno, path));
    struct stat about{};
    struct statfs system{};
    if (fstat(fd.get(), &about) != 0 || fstatfs(fd.get(), &system) != 0) {
        return std::unexpected(open_error(errno, path));
    }
    const auto kind = static_cast<unsigned long>(system.f_type);
    if (!S_ISREG(about.st_mode) || (kind != TMPFS_MAGIC && kind != HUGETLBFS_MAGIC)) {
        return std::unexpected(
            open_error(EINVAL, path + " is no memory file",
                       "use one on tmpfs or hugetlbfs, such as /dev/shm, or the file backend"));
    }
    const auto wanted = static_cast<off_t>(size);
    if (about.st_size == 0 && ftruncate(fd.get(), wanted) != 0) {
        return std::unexpected(open_error(errno, path));
    }
    if (about.st_size != 0 && about.st_size != wanted) {
        return std::unexpected(open_error(
            EINVAL, path + " has " + std::to_string(about.st_size) + " bytes, the disk " +
                        std::to_string(size),
            "give the disk the file's size, or remove the file"));
    }
    std::string identity =
        "memory " + std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino);
    return MemoryFile{.fd = std::move(fd), .identity = std::move(identity)};
}

}  // namespace

Result<std::shared_ptr<Backend>> open_memory(const MemoryOptions& options) {
    if (auto valid = check_geometry(options.geometry); !valid) {
        return std::unexpected(valid.error());
    }
    const std::uint64_t size = options.geometry.size;
    MemoryFile file;
    if (!options.file.empty()) {
        auto opened = open_memory_file(options.file, size);
        if (!opened) return std::unexpected(opened.error());
        file = std::move(*opened);
    }
    const int kind = file.fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* bytes =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, kind | MAP_NORESERVE, file.fd.get(), 0);
    if (bytes == MAP_FAILED) {
        return std::unexpected(open_error(errno,
                                          "no address space for " + std::to_string(size) + " bytes",
                                          "ask for a smaller size"));
    }
    // A fork would copy the page tables of the whole disk, and share its pages until written.
    static_cast<void>(madvise(bytes, size, MADV_DONTFORK));
    // A core file shall not hold the disk.
    static_cast<void>(madvise(bytes, size, MADV_DONTDUMP));
    if (options.hugepages && madvise(bytes, size, MADV_HUGEPAGE) != 0) {
        const int code = errno;
        munmap(bytes, size);
        return std::unexpected(open_error(code, "this kernel has no transparent huge pages",
                                          "leave hugepages off"));
    }
    if (!options.hugepages) {
        // Whatever the system's default is: sparse to the page. EINVAL: no huge pages to avoid.
        static_cast<void>(madvise(bytes, size, MADV_NOHUGEPAGE));
    }
    return make_backend(std::make_shared<Memory>(options.geometry, static_cast<std::byte*>(bytes),
                                                 std::move(file.identity)));
}

}  // namespace ashlar
