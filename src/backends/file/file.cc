// The file backend: a regular file or a block device as a disk. Every operation runs on the queue's
// ring; data is only routed, so it may lie in a registered buffer.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ashlar/backends.h>
#include <ashlar/group_commit.h>

#include "backends/file/opened.h"
#include "backends/file/transfer.h"
#include "base/fd.h"

namespace ashlar {
namespace {

// What zeroes are written from where nothing else makes them. Never written to.
constexpr std::uint32_t kZeroesSize = 256 << 10;
alignas(4096) std::byte zeroes[kZeroesSize];

class File final : public Backend {
public:
    File(file::OpenedFile opened, bool preallocated)
        : fd_(std::move(opened.fd)),
          start_(opened.window.offset),
          geometry_(file::geometry_of(opened.underneath, opened.window, opened.logical_block)),
          capabilities_(capabilities_of(opened, geometry_, preallocated)),
          block_device_(opened.underneath.block_device),
          // Direct I/O goes on from whole blocks only, the page cache from anywhere.
          step_(opened.underneath.direct ? opened.logical_block : 1),
          keeps_space_(preallocated),
          ends_with_file_(opened.window.offset + opened.window.length == opened.underneath.size),
          size_(geometry_.size) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "file"; }
    [[nodiscard]] Geometry geometry() const override {
        Geometry now = geometry_;
        now.size = size_.load(std::memory_order_relaxed);
        return now;
    }
    [[nodiscard]] Result<void> resize(std::uint64_t size) override;
    [[nodiscard]] std::string identity() const override {
        struct stat about {};
        if (fstat(fd_.get(), &about) != 0) return {};
        const std::string place = " at " + std::to_string(start_);
        if (block_device_) return "block device " + std::to_string(about.st_rdev) + place;
        return "file " + std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino) + place;
    }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return {{.name = "syncs",
                 .value = syncs_.load(std::memory_order_relaxed),
                 .what = "times that the file was synced: flushes that wait together share one"}};
    }
    [[nodiscard]] Capabilities capabilities() const override { return capabilities_; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::routes; }
    // The kernel lets one writer at a time into the page cache of a regular file: several threads
    // would only wait for each other.
    [[nodiscard]] unsigned best_threads() const noexcept override {
        return block_device_ || step_ != 1 ? 0 : 1;
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override;

private:
    friend class FileSession;

    static Capabilities capabilities_of(const file::OpenedFile& opened, const Geometry& geometry,
                                        bool preallocated) {
        if (opened.read_only) return {.read_only = true};
        const file::Underneath& underneath = opened.underneath;
        const bool device = underneath.block_device;
        // Space that was taken in advance is kept: a discard would give it to others.
        return {.flush = true,
                .fua = underneath.direct,
                .discard =
                    device ? geometry.discard_max != 0 : underneath.punches_holes && !preallocated,
                .write_zeroes = device ? geometry.write_zeroes_max != 0 : underneath.punches_holes};
    }

    const Fd fd_;
    const std::uint64_t start_;  // of the disk in the file
    const Geometry geometry_;    // but its size
    const Capabilities capabilities_;
    const bool block_device_;
    const std::uint32_t step_;
    const bool keeps_space_;
    const bool ends_with_file_;  // so a regular file grows and shrinks with the disk
    std::atomic<std::uint64_t> size_;
    std::atomic<int> lost_{0};  // see GroupCommit
    std::atomic<std::uint64_t> syncs_{0};
    std::atomic<bool> zeroes_ranges_{true};  // FALLOC_FL_ZERO_RANGE; until it is refused
};

Result<void> File::resize(std::uint64_t size) {
    const auto failed = [](int code, std::string detail, std::string hint = {}) {
        return std::unexpected(Error{.operation = "resize file backend",
                                     .code = code,
                                     .detail = std::move(detail),
                                     .hint = std::move(hint)});
    };
    if (capabilities_.read_only) return failed(EROFS, "the disk is read-only");
    const std::uint64_t before = size_.load(std::memory_order_relaxed);
    const auto end = static_cast<off_t>(start_ + size);
    if (!block_device_ && ends_with_file_) {
        if (ftruncate(fd_.get(), end) != 0) return failed(errno, "its file cannot get that size");
        if (keeps_space_ && size > before &&
            fallocate(fd_.get(), 0, static_cast<off_t>(start_ + before),
                      static_cast<off_t>(size - before)) != 0) {
            const int code = errno;
            static_cast<void>(ftruncate(fd_.get(), static_cast<off_t>(start_ + before)) == 0);
            return failed(code, "there is no space for it");
        }
    } else {
        // What is there has a size of its own, which the disk must stay within.
        const off_t most = lseek(fd_.get(), 0, SEEK_END);
        if (most < 0) return failed(errno, "its size cannot be told");
        if (end > most) {
            return failed(ENOSPC,
                          "what it lies in has " + std::to_string(most) +
                              " bytes, the disk would "
                              "end at " +
                              std::to_string(end),
                          "make that larger first");
        }
    }
    size_.store(size, std::memory_order_relaxed);
    return {};
}

class FileSession final : public Session {
public:
    // sync_fd: of the same file, this session's own; none if the disk is read-only.
    FileSession(File& disk, Fd sync_fd) noexcept
        : disk_(disk), sync_fd_(std::move(sync_fd)), commit_(disk.lost_) {}

    Task<> serve(Io& io, const Request& request) override {
        const Capabilities& can = disk_.capabilities_;
        switch (request.op) {
            case Op::read: return read(io, request);
            case Op::write:
                if (can.read_only) return IoResult::from_errno(EROFS);
                return write(io, request);
            case Op::flush:
                if (can.flush) return flush(io);
                break;
            case Op::discard:
                if (can.discard) return discard(io, request);
                break;
            case Op::write_zeroes:
                if (can.write_zeroes) return write_zeroes(io, request);
                break;
            default: break;
        }
        return IoResult(std::errc::operation_not_supported);
    }

private:
    [[nodiscard]] int fd() const noexcept { return disk_.fd_.get(); }
    [[nodiscard]] Range place_of(const Request& request) const noexcept {
        return {.offset = disk_.start_ + request.offset, .length = request.length};
    }

    Task<> read(Io& io, const Request& request) {
        file::Transfer transfer(request.buffer.length(), disk_.step_);
        const std::uint64_t start = place_of(request).offset;
        for (;;) {
            const Buffer into = request.buffer.part(transfer.done(), transfer.left());
            const IoResult part = co_await io.read(fd(), into, start + transfer.done());
            if (transfer.take(part)) co_return transfer.result();
        }
    }

    Task<> write(Io& io, const Request& request) {
        file::Transfer transfer(request.buffer.length(), disk_.step_);
        const std::uint64_t start = place_of(request).offset;
        const int flags = request.fua ? RWF_DSYNC : 0;
        for (;;) {
            const Buffer from = request.buffer.part(transfer.done(), transfer.left());
            const IoResult part = co_await io.write(fd(), from, start + transfer.done(), flags);
            if (transfer.take(part)) co_return transfer.result();
        }
    }

    // fdatasync writes what is needed to read the data back: a new size and the map of blocks too.
    Task<> flush(Io& io) {
        return commit_.flush(io, [this](Io& on) noexcept {
            disk_.syncs_.fetch_add(1, std::memory_order_relaxed);
            return on.fdatasync(sync_fd_.get());
        });
    }

    Task<> discard(Io& io, const Request& request) {
        const Range range = place_of(request);
        if (!disk_.block_device_) {
            co_return co_await allocate(io, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range);
        }
        // fallocate would write zeroes to a device that discards but promises none.
        const int device = fd();
        const auto call = [device, range]() noexcept {
            std::uint64_t which[2] = {range.offset, range.length};
            return ioctl(device, BLKDISCARD, which) == 0 ? IoResult() : IoResult::from_errno(errno);
        };
        co_return co_await io.offload(call);
    }

    Task<> write_zeroes(Io& io, const Request& request) {
        const Range range = place_of(request);
        IoResult result = std::errc::operation_not_supported;
        if (!request.no_unmap && !disk_.keeps_space_) {
            result = co_await allocate(io, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range);
        } else if (disk_.zeroes_ranges_.load(std::memory_order_relaxed)) {
            result = co_await allocate(io, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, range);
            if (result.error() == EOPNOTSUPP) {
                disk_.zeroes_ranges_.store(false, std::memory_order_relaxed);
            }
        }
        if (result.error() != EOPNOTSUPP) co_return result;
        co_return co_await write_zero_bytes(io, range);
    }

    Task<> allocate(Io& io, int mode, Range range) {
        for (;;) {
            const IoResult result = co_await io.fallocate(fd(), mode, range);
            if (result.error() != EINTR && result.error() != EAGAIN) co_return result;
        }
    }

    // What tmpfs needs, which makes holes but no zeroes that keep their space.
    Task<> write_zero_bytes(Io& io, Range range) {
        for (std::uint64_t at = 0; at < range.length;) {
            const std::uint64_t left = range.length - at;
            const auto piece = static_cast<std::uint32_t>(left < kZeroesSize ? left : kZeroesSize);
            file::Transfer transfer(piece, disk_.step_);
            for (bool over = false; !over;) {
                const Buffer from =
                    Buffer::memory(zeroes, piece).part(transfer.done(), transfer.left());
                const IoResult part =
                    co_await io.write(fd(), from, range.offset + at + transfer.done());
                over = transfer.take(part);
            }
            if (!transfer.result().ok()) co_return transfer.result();
            at += piece;
        }
        co_return IoResult();
    }

    File& disk_;
    const Fd sync_fd_;
    GroupCommit commit_;
};

// The kernel reports a page that it could not write once to each description of the file. Sessions
// that shared one would race for that report, and a flush of one could end well while another
// still carries the error home; so each syncs through its own.
Result<std::unique_ptr<Session>> File::open_session(Io&) {
    Fd sync_fd;
    if (!capabilities_.read_only) {
        sync_fd = open_again(fd_.get(), O_RDONLY);
        if (!sync_fd.valid()) {
            return std::unexpected(
                Error{.operation = "open session of file backend",
                      .code = errno,
                      .detail = "its file does not open by /proc/self/fd",
                      .hint = "mount /proc, and keep the right to read the file"});
        }
    }
    return std::make_unique<FileSession>(*this, std::move(sync_fd));
}

}  // namespace

Result<std::shared_ptr<Backend>> open_file(const FileOptions& options) {
    auto opened = file::open_and_lock(options);
    if (!opened) {
        Error error = std::move(opened.error());
        error.operation = "open " + (options.path.empty() ? "file backend" : options.path);
        return std::unexpected(std::move(error));
    }
    return std::make_shared<File>(std::move(*opened), options.preallocate);
}

}  // namespace ashlar
