#include "backends/file/opened.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "base/file_lock.h"
#include "base/new_file.h"
#include "base/units.h"

namespace ashlar::file {
namespace {

constexpr std::uint64_t kSizeMax = std::numeric_limits<std::int64_t>::max();

std::unexpected<Error> refuse(int code, std::string detail, std::string hint = {}) {
    return std::unexpected(
        Error{.code = code, .detail = std::move(detail), .hint = std::move(hint)});
}

std::string text(std::uint64_t number) { return std::to_string(number); }

Result<void> check_options(const FileOptions& options) {
    if (options.path.empty()) return refuse(EINVAL, "no path was given");
    const std::uint32_t block = options.logical_block_size;
    if (block != 0 && (!is_power_of_two(block) || block < 512 || block > 4096)) {
        return refuse(EINVAL, "logical block size is " + text(block) +
                                  "; allowed are 512, 1024, 2048 and 4096");
    }
    if (options.create && options.read_only) {
        return refuse(EINVAL, "a disk that is made (create) cannot be read-only");
    }
    if (options.create && (options.size == 0 || options.size > kSizeMax)) {
        return refuse(
            EINVAL, "size is " + text(options.size) + "; a file that is made needs 1 to 2^63 - 1");
    }
    if (!options.create && options.size != 0) {
        return refuse(EINVAL, "size is for a file that is made (create)",
                      "use length for a part of a file that exists");
    }
    if (options.preallocate && options.read_only) {
        return refuse(EINVAL, "space cannot be taken (preallocate) for a read-only disk");
    }
    return {};
}

Result<Fd> make_file(const std::string& path) {
    Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR));
    if (fd.valid()) return fd;
    const int code = errno;
    if (code == EEXIST) {
        return refuse(code, "there is such a file already, and create only makes new ones",
                      "open it without create and size, or remove it");
    }
    return refuse(code, "it cannot be made");
}

// Only what can be a disk is opened at all: opening a pipe waits, opening a watchdog starts it.
Result<mode_t> type_of(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) {
        const int code = errno;
        return refuse(
            code, {},
            code == ENOENT ? "check the path, or make the file with create and size" : "");
    }
    const char* other = nullptr;
    switch (status.st_mode & S_IFMT) {
        case S_IFREG:
        case S_IFBLK: return status.st_mode & S_IFMT;
        case S_IFDIR: other = "a directory"; break;
        case S_IFCHR: other = "a character device"; break;
        default: other = "a pipe or a socket"; break;
    }
    return refuse(
        EINVAL, "it is " + std::string(other) + "; a disk needs a regular file or a block device");
}

struct Found {
    Fd fd{};
    bool read_only = false;
};

Result<Found> open_existing(const FileOptions& options) {
    const auto type = type_of(options.path);
    if (!type) return std::unexpected(type.error());
    const bool device = *type == S_IFBLK;
    if (!options.read_only) {
        // O_EXCL keeps a device from being mounted, or from being written when it is.
        Fd fd(open(options.path.c_str(), O_RDWR | O_CLOEXEC | (device ? O_EXCL : 0)));
        if (fd.valid()) {
            int cannot_write = 0;
            if (device && ioctl(fd.get(), BLKROGET, &cannot_write) != 0) cannot_write = 0;
            return Found{.fd = std::move(fd), .read_only = cannot_write != 0};
        }
        const int code = errno;
        if (code == EBUSY && device) {
            return refuse(code,
                          "the device is in use: mounted, part of another device, or another "
                          "program's",
                          "free it, or open it read-only");
        }
        if (code != EACCES && code != EROFS && code != EPERM) return refuse(code, {});
    }
    Fd fd(open(options.path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return refuse(errno, {});
    return Found{.fd = std::move(fd), .read_only = true};
}

Result<void> lock(int fd, bool read_only, bool block_device) {
    // Whoever watches for new block devices locks one for a moment, to see what is on it.
    const auto patience = block_device ? kLockPatience : std::chrono::milliseconds{0};
    const int code = lock_file(fd, read_only, patience);
    if (code == 0) return {};
    if (code != EBUSY) return refuse(code, "it cannot be locked (flock)");
    if (read_only) {
        return refuse(EBUSY, "another disk or program has locked it to write",
                      "stop that one first");
    }
    return refuse(EBUSY, "another disk or program has locked it",
                  "stop that one first, or open both read-only");
}

// tmpfs files do not carry the kernel's mark of files that can be asked not to wait, so io_uring
// hands each of their reads and writes to a thread, which costs some 25 us. It takes a file with
// O_NONBLOCK for one that does not wait; and does a write at once, instead of in a thread, only
// with O_DIRECT, which tmpfs has since 6.6 and needs no alignment for. What waits after all is a
// page that was swapped out. On real storage a file with O_NONBLOCK would hold up the whole queue.
void serve_at_once(int fd, int flags) noexcept {
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK | O_DIRECT) != 0) {
        static_cast<void>(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
    }
}

// Gives whether direct I/O counts from now on.
Result<bool> choose_flags(int fd, bool direct) {
    int flags = fcntl(fd, F_GETFL);
    // A disk's reads are not the file's; the owner (or root) may say so.
    if (fcntl(fd, F_SETFL, flags | O_NOATIME) == 0) flags |= O_NOATIME;
    if (lies_in_memory(fd)) {
        serve_at_once(fd, flags);
        return false;
    }
    if (direct && fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
        return refuse(errno, "its file system has no direct I/O for it", "leave direct off");
    }
    return direct;
}

Result<std::uint32_t> choose_block(const Underneath& underneath, std::uint32_t asked) {
    if (asked == 0) return underneath.alignment;
    if (asked >= underneath.alignment) return asked;
    return refuse(EINVAL, "logical block size is " + text(asked) + "; what lies underneath needs " +
                              text(underneath.alignment) + " or more");
}

Result<Range> choose_window(const FileOptions& options, std::uint64_t size, std::uint32_t block) {
    if (options.create && size % block != 0) {
        return refuse(EINVAL, "size is " + text(size) +
                                  "; it must be a multiple of the logical block size " +
                                  text(block));
    }
    if (options.offset % block != 0) {
        return refuse(EINVAL, "offset is " + text(options.offset) +
                                  "; it must be a multiple of the logical block size " +
                                  text(block));
    }
    if (size < block || options.offset > size - block) {
        return refuse(EINVAL, "it has " + text(size) + " bytes, from offset " +
                                  text(options.offset) + " on less than one logical block of " +
                                  text(block));
    }
    const std::uint64_t rest = size - options.offset;
    const std::uint64_t length = options.length.value_or(round_down(rest, block));
    if (length == 0 || length % block != 0) {
        return refuse(EINVAL, "length is " + text(length) +
                                  "; it must be a multiple of the logical block size " +
                                  text(block) + ", not 0");
    }
    if (length > rest) {
        return refuse(EINVAL, "length is " + text(length) + ", but only " + text(rest) +
                                  " bytes are there from offset " + text(options.offset));
    }
    return Range{.offset = options.offset, .length = length};
}

Result<void> preallocate(int fd, Range window) {
    const auto from = static_cast<off_t>(window.offset);
    const auto length = static_cast<off_t>(window.length);
    int result = 0;
    do {
        result = fallocate(fd, 0, from, length);
    } while (result != 0 && errno == EINTR);
    if (result == 0) return {};
    const int code = errno;
    if (code == EOPNOTSUPP) {
        return refuse(code, "its file system cannot take space in advance",
                      "leave preallocate off");
    }
    return refuse(code, "space for " + text(window.length) + " bytes cannot be taken");
}

}  // namespace

Result<OpenedFile> open_and_lock(const FileOptions& options) {
    if (auto valid = check_options(options); !valid) return std::unexpected(valid.error());
    OpenedFile opened;
    if (options.create) {
        auto made = make_file(options.path);
        if (!made) return std::unexpected(made.error());
        opened.fd = std::move(*made);
    } else {
        auto found = open_existing(options);
        if (!found) return std::unexpected(found.error());
        opened.fd = std::move(found->fd);
        opened.read_only = found->read_only;
    }
    const int fd = opened.fd.get();
    NewFile new_file(options.create ? options.path : std::string());

    struct stat status{};
    if (fstat(fd, &status) != 0) return refuse(errno, "its attributes");
    const bool block_device = S_ISBLK(status.st_mode);
    if (options.preallocate && (block_device || opened.read_only)) {
        return refuse(EINVAL, block_device
                                  ? "preallocate is for regular files, not devices"
                                  : "space cannot be taken (preallocate): it is read-only");
    }
    if (auto locked = lock(fd, opened.read_only, block_device); !locked) {
        return std::unexpected(locked.error());
    }
    if (options.create && ftruncate(fd, static_cast<off_t>(options.size)) != 0) {
        return refuse(errno, "it cannot be given " + text(options.size) + " bytes");
    }
    const auto direct = choose_flags(fd, options.direct);
    if (!direct) return std::unexpected(direct.error());
    auto underneath = look_underneath(fd, *direct);
    if (!underneath) return std::unexpected(underneath.error());
    opened.underneath = *underneath;
    const auto block = choose_block(*underneath, options.logical_block_size);
    if (!block) return std::unexpected(block.error());
    opened.logical_block = *block;
    const auto window = choose_window(options, underneath->size, *block);
    if (!window) return std::unexpected(window.error());
    opened.window = *window;
    if (options.preallocate) {
        if (auto taken = preallocate(fd, *window); !taken) return std::unexpected(taken.error());
    }
    if (options.create) {
        if (const int code = make_durable(fd, options.path); code != 0) {
            return refuse(code, "it was made, but its name cannot be made durable");
        }
    }
    new_file.keep();
    return opened;
}

}  // namespace ashlar::file
