#include "layers/log/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <utility>

#include "layers/log/crc32c.h"

namespace ashlar::layers {
namespace {

constexpr std::size_t kWindow = std::size_t{1} << 18;  // bytes

}  // namespace

std::unexpected<Error> LogReader::refuse(int code, std::string detail) const {
    return std::unexpected(
        Error{.operation = "read log " + path_, .code = code, .detail = std::move(detail)});
}

Result<LogReader> LogReader::open(const std::string& path) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) {
        return std::unexpected(Error{.operation = "read log " + path, .code = errno});
    }
    return open(file.get(), path);
}

Result<LogReader> LogReader::open(int fd, const std::string& path) {
    Fd file(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    struct stat status{};
    if (!file.valid() || fstat(file.get(), &status) != 0) {
        return std::unexpected(Error{.operation = "read log " + path, .code = errno});
    }
    LogReader reader(std::move(file), path, static_cast<std::uint64_t>(status.st_size));
    if (!S_ISREG(status.st_mode)) return reader.refuse(EINVAL, "it is no regular file");
    const auto bytes = reader.look(0, std::min<std::size_t>(reader.size_, kLogUnit));
    if (!bytes) return std::unexpected(bytes.error());
    const auto head = decode_head(*bytes);
    if (!head) return reader.refuse(EINVAL, head.error());
    reader.head_ = *head;
    reader.position_ = kLogUnit;
    return reader;
}

Result<void> LogReader::read(std::uint64_t place, std::span<std::byte> into) const {
    while (!into.empty()) {
        const ssize_t got = pread(file_.get(), into.data(), into.size(), static_cast<off_t>(place));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refuse(errno, "at byte " + std::to_string(place));
        if (got == 0) return refuse(EIO, "it became shorter while it was read");
        place += static_cast<std::uint64_t>(got);
        into = into.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

Result<void> LogReader::read_data(const LogRecord& write, std::uint64_t from,
                                  std::span<std::byte> into) const {
    return read(write.place + kLogUnit + from, into);
}

Result<std::span<const std::byte>> LogReader::look(std::uint64_t place, std::size_t length) {
    const bool there =
        place >= window_at_ && place - window_at_ + length <= window_.size() && length > 0;
    if (!there) {
        window_at_ = place;
        window_.resize(std::min<std::uint64_t>(std::max(length, kWindow), size_ - place));
        if (auto done = read(place, window_); !done) return std::unexpected(done.error());
    }
    return std::span<const std::byte>(window_).subspan(place - window_at_, length);
}

Result<bool> LogReader::data_is_sound(const LogRecord& record) {
    std::uint32_t sum = 0;
    for (std::uint64_t done = 0; done < record.data_length();) {
        const std::size_t length = std::min<std::uint64_t>(kWindow, record.data_length() - done);
        const auto bytes = look(record.place + kLogUnit + done, length);
        if (!bytes) return std::unexpected(bytes.error());
        sum = crc32c(*bytes, sum);
        done += length;
    }
    return sum == record.data_sum;
}

Result<std::optional<LogRecord>> LogReader::next() {
    std::uint64_t place = (position_ + kLogUnit - 1) / kLogUnit * kLogUnit;
    for (; place < size_ && size_ - place >= kLogUnit; place += kLogUnit) {
        const auto bytes = look(place, kLogUnit);
        if (!bytes) return std::unexpected(bytes.error());
        const auto record = decode_record(bytes->first<kLogUnit>(), place, head_);
        if (!record || record->end() > size_) continue;
        const auto sound = data_is_sound(*record);
        if (!sound) return std::unexpected(sound.error());
        if (!*sound) continue;
        if (place > position_) gaps_.push_back({position_, place - position_});
        position_ = record->end();
        return record;
    }
    const std::uint64_t noted = gaps_.empty() ? 0 : gaps_.back().offset + gaps_.back().length;
    if (position_ < size_ && noted != size_) gaps_.push_back({position_, size_ - position_});
    return std::nullopt;
}

}  // namespace ashlar::layers
