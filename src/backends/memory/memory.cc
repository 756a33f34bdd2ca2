// The memory backend: one mapping. The kernel's page table is the sparse map, so queues
// share no lock of ours: a page is taken by the first write to it and given back by madvise. Of a
// file a page would be taken by the first read, too: there WrittenPages says what may be touched.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <ashlar/backends.h>

#include "backends/memory/written_pages.h"
#include "base/fd.h"
#include "base/file_lock.h"
#include "base/units.h"

namespace ashlar {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;

Error open_error(int code, std::string detail = {}, std::string hint = {}) {
    return Error{.operation = "open memory backend",
                 .code = code,
                 .detail = std::move(detail),
                 .hint = std::move(hint)};
}

// Address space that a disk lies in and can grow in: what queues know of it never moves.
struct Space {
    std::byte* start = nullptr;
    std::uint64_t size = 0;
    Mapping mapping{};  // all of it, and what aligns its start
};

class Memory {
public:
    // bytes of the disk are mapped at the start of the space, from file if there is one.
    Memory(const MemoryOptions& options, Space space, Fd file, std::string identity)
        : geometry_(options.geometry),
          size_(options.geometry.size),
          space_(std::move(space)),
          hugepages_(options.hugepages),
          file_(std::move(file)),
          identity_(std::move(identity)),
          page_(static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))) {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() = default;

    [[nodiscard]] static std::string_view name() { return "memory"; }
    [[nodiscard]] std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
    [[nodiscard]] Geometry geometry() const {
        Geometry now = geometry_;
        now.size = size();
        return now;
    }
    // Maps the disk's bytes from `from` on, up to a size that begins a page or is the disk's.
    [[nodiscard]] Result<void> map(std::uint64_t from, std::uint64_t to);
    [[nodiscard]] Result<void> resize(std::uint64_t size);
    [[nodiscard]] const std::string& identity() const { return identity_; }
    [[nodiscard]] std::uint64_t page() const { return page_; }

    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        std::memcpy(into.data(), space_.start + offset, into.size());
        return {};
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        std::memcpy(space_.start + offset, from.data(), from.size());
        return {};
    }
    std::byte* locate(Range range) noexcept { return space_.start + range.offset; }
    IoResult discard(Range range) { return release(range); }
    IoResult write_zeroes(Range range, bool no_unmap) {
        if (!no_unmap) return release(range);
        std::memset(space_.start + range.offset, 0, range.length);
        return {};
    }

private:
    // Whole pages go back to the system and read as zeroes; their edges are zeroed by hand.
    IoResult release(Range range) {
        const std::uint64_t end = range.offset + range.length;
        const std::uint64_t first = (range.offset + page_ - 1) / page_ * page_;
        const std::uint64_t last = end / page_ * page_;
        if (first >= last) {
            std::memset(space_.start + range.offset, 0, range.length);
            return {};
        }
        std::memset(space_.start + range.offset, 0, first - range.offset);
        std::memset(space_.start + last, 0, end - last);
        // Of a shared mapping the file itself must let go.
        const int advice = identity_.empty() ? MADV_DONTNEED : MADV_REMOVE;
        if (madvise(space_.start + first, last - first, advice) != 0) {
            return IoResult::from_errno(errno);
        }
        return {};
    }

    const Geometry geometry_;  // but its size
    std::atomic<std::uint64_t> size_;
    const Space space_;
    const bool hugepages_;
    const Fd file_;               // kept to grow it; none: memory of no file
    const std::string identity_;  // empty without a file
    const std::uint64_t page_;
};

struct MemoryFile {
    Fd fd;
    std::string identity;
    std::uint64_t page = 0;  // bytes: what can be mapped
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
    // A server that was killed has it until the last of its memory is gone.
    if (const int code = lock_file(fd.get(), false, kLockPatience); code != 0) {
        return std::unexpected(open_error(
            code, code == EBUSY ? "another disk is in " + path : path + " cannot be locked (flock)",
            code == EBUSY ? "remove that one first" : ""));
    }
    // Its size from before the lock may be another disk's.
    if (fstat(fd.get(), &about) != 0) return std::unexpected(open_error(errno, path));
    const auto wanted = static_cast<off_t>(size);
    if (about.st_size == 0 && ftruncate(fd.get(), wanted) != 0) {
        return std::unexpected(open_error(errno, path));
    }
    if (about.st_size != 0 && about.st_size != wanted) {
        return std::unexpected(open_error(EINVAL,
                                          path + " has " + std::to_string(about.st_size) +
                                              " bytes, the disk " + std::to_string(size),
                                          "give the disk the file's size, or remove the file"));
    }
    std::string identity =
        "memory " + std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino);
    return MemoryFile{.fd = std::move(fd),
                      .identity = std::move(identity),
                      .page = static_cast<std::uint64_t>(system.f_bsize)};
}

// A page's worth at least: what is not there cannot be mapped.
Result<void> Memory::map(std::uint64_t from, std::uint64_t to) {
    const std::uint64_t start = from / page_ * page_;
    const std::uint64_t bytes = to - start;
    const int kind = file_.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* mapped = mmap(space_.start + start, bytes, PROT_READ | PROT_WRITE,
                        kind | MAP_NORESERVE | MAP_FIXED, file_.get(), static_cast<off_t>(start));
    if (mapped == MAP_FAILED) {
        return std::unexpected(open_error(errno,
                                          "no address space for " + std::to_string(to) + " bytes",
                                          "ask for a smaller size"));
    }
    // A process may lock all that it maps; of locked memory nothing can be given back.
    static_cast<void>(munlock(mapped, bytes));
    // A fork would copy the page tables of the whole disk, and share its pages until written.
    static_cast<void>(madvise(mapped, bytes, MADV_DONTFORK));
    // A core file shall not hold the disk.
    static_cast<void>(madvise(mapped, bytes, MADV_DONTDUMP));
    if (hugepages_ && madvise(mapped, bytes, MADV_HUGEPAGE) != 0) {
        return std::unexpected(
            open_error(errno, "this kernel has no transparent huge pages", "leave hugepages off"));
    }
    if (!hugepages_) {
        // Whatever the system's default is: sparse to the page. EINVAL: no huge pages to avoid.
        static_cast<void>(madvise(mapped, bytes, MADV_NOHUGEPAGE));
    }
    return {};
}

Result<void> Memory::resize(std::uint64_t size) {
    const std::uint64_t before = size_.load(std::memory_order_relaxed);
    const auto failed = [](int code, std::string detail, std::string hint = {}) {
        return std::unexpected(Error{.operation = "resize memory backend",
                                     .code = code,
                                     .detail = std::move(detail),
                                     .hint = std::move(hint)});
    };
    if (size > space_.size) {
        return failed(ENOMEM,
                      "it has address space for " + std::to_string(space_.size) + " bytes only",
                      "make a new disk of that size and copy this one");
    }
    // What is beyond the end reads as zeroes when it is there again; the system sees to that of a
    // file that is cut.
    if (size < before && !file_.valid()) {
        if (const IoResult gone = release({.offset = size, .length = before - size}); !gone.ok()) {
            return failed(gone.error(), "its memory cannot be given back");
        }
    }
    if (file_.valid() && ftruncate(file_.get(), static_cast<off_t>(size)) != 0) {
        return failed(errno, "its file cannot be made that large");
    }
    // Pages that are mapped already stay as they are: they are in use.
    const std::uint64_t mapped = (before + page_ - 1) / page_ * page_;
    if (size > mapped) {
        if (auto grown = map(mapped, size); !grown) {
            return failed(grown.error().code, grown.error().detail);
        }
    }
    size_.store(size, std::memory_order_relaxed);
    return {};
}

// ---- In a file -------------------------------------------------------------------------------

class FileMemory final : public Backend {
public:
    FileMemory(std::shared_ptr<Memory> memory, memory::WrittenPages written)
        : memory_(std::move(memory)), written_(std::move(written)) {}

    [[nodiscard]] std::string_view name() const noexcept override { return Memory::name(); }
    [[nodiscard]] Geometry geometry() const override { return memory_->geometry(); }
    [[nodiscard]] Capabilities capabilities() const override {
        return {.discard = true, .write_zeroes = true};
    }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::holds; }
    [[nodiscard]] std::string identity() const override { return memory_->identity(); }
    [[nodiscard]] Result<void> resize(std::uint64_t size) override;
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override;

    IoResult read(std::uint64_t offset, std::span<std::byte> into) const;
    IoResult write(std::uint64_t offset, std::span<const std::byte> from);
    std::byte* locate(const Request& request) noexcept;
    IoResult release(Range range);
    IoResult write_zeroes(Range range, bool no_unmap);

private:
    const std::shared_ptr<Memory> memory_;
    memory::WrittenPages written_;
};

class FileMemorySession final : public Session {
public:
    explicit FileMemorySession(FileMemory& disk) noexcept : disk_(disk) {}

    Task<> serve(Io&, const Request& request) override {
        const Range range{.offset = request.offset, .length = request.length};
        switch (request.op) {
            case Op::read: return disk_.read(request.offset, request.bytes());
            case Op::write: return disk_.write(request.offset, request.bytes());
            case Op::discard: return disk_.release(range);
            case Op::write_zeroes: return disk_.write_zeroes(range, request.no_unmap);
            default: return IoResult(std::errc::operation_not_supported);
        }
    }
    [[nodiscard]] std::byte* locate(const Request& request) noexcept override {
        return disk_.locate(request);
    }

private:
    FileMemory& disk_;
};

Result<std::unique_ptr<Session>> FileMemory::open_session(Io&) {
    return std::make_unique<FileMemorySession>(*this);
}

IoResult FileMemory::read(std::uint64_t offset, std::span<std::byte> into) const {
    for (std::size_t done = 0; done < into.size();) {
        const std::uint64_t at = offset + done;
        const memory::WrittenPages::Run run = written_.run(at, offset + into.size());
        const std::span<std::byte> part = into.subspan(done, run.end - at);
        if (run.written) {
            static_cast<void>(memory_->read(at, part));
        } else {
            std::ranges::fill(part, std::byte{0});
        }
        done += part.size();
    }
    return {};
}

IoResult FileMemory::write(std::uint64_t offset, std::span<const std::byte> from) {
    const Range range{.offset = offset, .length = from.size()};
    written_.mark(range);
    const IoResult result = memory_->write(offset, from);
    written_.mark(range);
    return result;
}

// Where a read has to copy zeroes, read() does. Of a write the engine asks once more when the
// kernel has put its data there, unless it is by user copy.
std::byte* FileMemory::locate(const Request& request) noexcept {
    const Range range{.offset = request.offset, .length = request.length};
    if (request.op == Op::write) {
        written_.mark(range);
    } else if (!written_.all(range)) {
        return nullptr;
    }
    return memory_->locate(range);
}

// Whole pages go back; what is left of the first and the last is zeroed, if there is anything.
IoResult FileMemory::release(Range range) {
    const std::uint64_t end = range.offset + range.length;
    const std::uint64_t first = round_up(range.offset, memory_->page());
    const std::uint64_t last = round_down(end, memory_->page());
    const auto zero = [&](std::uint64_t from, std::uint64_t to) {
        if (from < to && written_.has(from))
            std::memset(memory_->locate({.offset = from}), 0, to - from);
    };
    if (first > last) {  // within one page
        zero(range.offset, end);
        return {};
    }
    zero(range.offset, first);
    zero(last, end);
    if (first == last) return {};
    const Range pages{.offset = first, .length = last - first};
    written_.clear(pages);
    const IoResult released = memory_->discard(pages);
    if (!released.ok()) written_.mark(pages);  // it is all still there
    return released;
}

IoResult FileMemory::write_zeroes(Range range, bool no_unmap) {
    if (!no_unmap) return release(range);
    written_.mark(range);
    const IoResult result = memory_->write_zeroes(range, no_unmap);
    written_.mark(range);
    return result;
}

Result<void> FileMemory::resize(std::uint64_t size) {
    const std::uint64_t before = memory_->size();
    if (auto resized = memory_->resize(size); !resized) return resized;
    const std::uint64_t page = memory_->page();
    const std::uint64_t from = round_up(size, page);
    if (from < before) written_.clear({.offset = from, .length = round_up(before, page) - from});
    return {};
}

// ---- Opening -----------------------------------------------------------------------------------

// As much as a disk may come to have, or what there is; it costs nothing until it is used.
// alignment: of its start, a power of two; huge pages need theirs.
Result<Space> reserve(std::uint64_t size, std::uint64_t alignment) {
    constexpr std::uint64_t least = std::uint64_t{64} << 30;
    for (const std::uint64_t times : {16U, 4U, 1U}) {
        if (size > UINT64_MAX / 32) break;
        const std::uint64_t bytes = times == 1 ? size : std::max(size * times, least);
        void* found = mmap(nullptr, bytes + alignment, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) continue;
        static_cast<void>(madvise(found, bytes + alignment, MADV_DONTFORK));
        const auto address = reinterpret_cast<std::uintptr_t>(found);
        const std::uint64_t skipped = round_up<std::uintptr_t>(address, alignment) - address;
        return Space{.start = static_cast<std::byte*>(found) + skipped,
                     .size = bytes,
                     .mapping = Mapping(found, bytes + alignment)};
    }
    return std::unexpected(open_error(ENOMEM,
                                      "no address space for " + std::to_string(size) + " bytes",
                                      "ask for a smaller size"));
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
    auto space = reserve(size, std::max(kHugePage, file.page));
    if (!space) return std::unexpected(space.error());
    const int fd = file.fd.get();
    const std::uint64_t space_size = space->size;
    auto memory = std::make_shared<Memory>(options, std::move(*space), std::move(file.fd),
                                           std::move(file.identity));
    if (auto mapped = memory->map(0, size); !mapped) return std::unexpected(mapped.error());
    if (fd < 0) return make_backend(std::move(memory));
    auto written = memory::WrittenPages::make(space_size, memory->page());
    if (!written) return std::unexpected(written.error());
    written->find(fd, size);
    return std::make_shared<FileMemory>(std::move(memory), std::move(*written));
}

}  // namespace ashlar
