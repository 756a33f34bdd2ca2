#include "layers/log/image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>

namespace ashlar::layers {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 18;  // bytes

// pread or pwrite until all is done; 0 or an errno.
template <class Call, class Byte>
int transfer(Call call, int fd, std::span<Byte> bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
        const ssize_t done = call(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        if (done == 0) return EIO;
        bytes = bytes.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return 0;
}

int zero_range(int fd, Range range) {
    const auto offset = static_cast<off_t>(range.offset);
    const auto length = static_cast<off_t>(range.length);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0) return 0;
    if (errno != EOPNOTSUPP && errno != EINVAL) return errno;
    static constexpr std::array<std::byte, 65536> kZeroes{};
    for (std::uint64_t done = 0; done < range.length;) {
        const auto piece = std::min<std::uint64_t>(kZeroes.size(), range.length - done);
        const int code = transfer(pwrite, fd, std::span(kZeroes).first(piece), range.offset + done);
        if (code != 0) return code;
        done += piece;
    }
    return 0;
}

std::unexpected<Error> refuse(const std::string& path, int code, std::string detail = {},
                              std::string hint = {}) {
    return std::unexpected(Error{.operation = "open image " + path,
                                 .code = code,
                                 .detail = std::move(detail),
                                 .hint = std::move(hint)});
}
std::unexpected<Error> refuse_size(const std::string& path, std::uint64_t held,
                                   std::uint64_t size) {
    return refuse(
        path, EINVAL,
        "it has " + std::to_string(held) + " bytes; the disk has " + std::to_string(size));
}

// Bytes, also of a block device. Right after the file was opened, or was not.
Result<std::uint64_t> size_of(const Fd& file, const std::string& path) {
    if (!file.valid()) return refuse(path, errno);
    const off_t end = lseek(file.get(), 0, SEEK_END);
    if (end < 0) return refuse(path, errno);
    return static_cast<std::uint64_t>(end);
}

}  // namespace

std::unexpected<Error> Image::fail(int code, std::string detail) const {
    return std::unexpected(
        Error{.operation = "write image " + path_, .code = code, .detail = std::move(detail)});
}

Result<Image> Image::open(const std::string& path, std::uint64_t size, bool over) {
    const int make = over ? 0 : O_CREAT;
    Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | make, S_IRUSR | S_IWUSR));
    const auto held = size_of(file, path);
    if (!held) return std::unexpected(held.error());
    if (over && *held < size) return refuse_size(path, *held, size);
    if (!over && *held != 0) {
        return refuse(path, EEXIST, "it is not empty",
                      "remove it; or, if it holds what the disk held when the log began, replay "
                      "over it");
    }
    if (!over && ftruncate(file.get(), static_cast<off_t>(size)) != 0) return refuse(path, errno);
    Fd kept(memfd_create("ashlar-replay", MFD_CLOEXEC));
    if (!kept.valid() || ftruncate(kept.get(), static_cast<off_t>(size)) != 0) {
        return refuse(path, errno, "no memory to keep parts of it");
    }
    return Image(path, std::move(file), std::move(kept));
}

Result<Image> Image::open_to_read(const std::string& path, std::uint64_t size) {
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const auto held = size_of(file, path);
    if (!held) return std::unexpected(held.error());
    if (*held < size) return refuse_size(path, *held, size);
    return Image(path, std::move(file), Fd());
}

Result<void> Image::write(std::uint64_t offset, std::span<const std::byte> from) {
    const int code = transfer(pwrite, file_.get(), from, offset);
    if (code != 0) return fail(code);
    return {};
}

Result<void> Image::zero(Range range) {
    const int code = zero_range(file_.get(), range);
    if (code != 0) return fail(code);
    return {};
}

Result<void> Image::read(std::uint64_t offset, std::span<std::byte> into) const {
    const int code = transfer(pread, file_.get(), into, offset);
    if (code != 0) return fail(code, "it cannot be read");
    return {};
}

Result<void> Image::copy(const Fd& from, const Fd& to, Range range) const {
    if (const int code = zero_range(to.get(), range); code != 0) return fail(code);
    std::vector<std::byte> piece;
    const std::uint64_t end = range.offset + range.length;
    for (std::uint64_t at = range.offset; at < end;) {
        // Block devices have no holes to tell.
        const off_t data = lseek(from.get(), static_cast<off_t>(at), SEEK_DATA);
        if (data < 0 && errno == ENXIO) break;
        if (data >= 0) at = static_cast<std::uint64_t>(data);
        if (at >= end) break;
        const off_t hole = data < 0 ? -1 : lseek(from.get(), data, SEEK_HOLE);
        const std::uint64_t stop = hole < 0 ? end : std::min(end, static_cast<std::uint64_t>(hole));
        for (; at < stop; at += piece.size()) {
            piece.resize(std::min<std::uint64_t>(kPiece, stop - at));
            int code = transfer(pread, from.get(), std::span(piece), at);
            if (code == 0) code = transfer(pwrite, to.get(), std::span<const std::byte>(piece), at);
            if (code != 0) return fail(code);
        }
    }
    return {};
}

Result<void> Image::save(std::vector<Range> ranges) {
    ranges_ = merge(std::move(ranges));
    for (const Range& range : ranges_) {
        if (auto copied = copy(file_, kept_, range); !copied) return copied;
    }
    return {};
}

Result<void> Image::restore() {
    for (const Range& range : ranges_) {
        if (auto copied = copy(kept_, file_, range); !copied) return copied;
        // Its memory is free for others again.
        if (const int code = zero_range(kept_.get(), range); code != 0) return fail(code);
    }
    ranges_.clear();
    return {};
}

std::vector<Range> merge(std::vector<Range> ranges) {
    std::ranges::sort(ranges, {}, &Range::offset);
    std::vector<Range> merged;
    for (const Range& range : ranges) {
        if (range.length == 0) continue;
        if (merged.empty() || merged.back().offset + merged.back().length < range.offset) {
            merged.push_back(range);
            continue;
        }
        Range& last = merged.back();
        last.length =
            std::max(last.offset + last.length, range.offset + range.length) - last.offset;
    }
    return merged;
}

}  // namespace ashlar::layers
