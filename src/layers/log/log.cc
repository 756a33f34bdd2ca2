// The log layer: records every change and flush before it goes on, and its answer before it is
// given.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <ashlar/backends.h>

#include "base/assert.h"
#include "base/fd.h"
#include "base/file_lock.h"
#include "base/new_file.h"
#include "base/units.h"
#include "layers/log/crc32c.h"
#include "layers/log/format.h"
#include "layers/log/reader.h"
#include "layers/plain.h"

namespace ashlar {
namespace {

using layers::kLogUnit;
using layers::LogBytes;
using layers::LogHead;
using layers::LogRecord;

// The file that all sessions write to. Each record has a place of its own, so nobody waits for
// another's.
class LogFile {
public:
    LogFile(Fd file, std::uint64_t end) noexcept : file_(std::move(file)), end_(end) {}

    [[nodiscard]] int descriptor() const noexcept { return file_.get(); }
    // Where so many bytes go.
    std::uint64_t take_place(std::uint64_t length) noexcept {
        return end_.fetch_add(length, std::memory_order_relaxed);
    }

private:
    const Fd file_;
    std::atomic<std::uint64_t> end_;
};

std::optional<LogRecord::Kind> kind_of(Op op) noexcept {
    switch (op) {
        case Op::write: return LogRecord::Kind::write;
        case Op::discard: return LogRecord::Kind::discard;
        case Op::write_zeroes: return LogRecord::Kind::write_zeroes;
        case Op::flush: return LogRecord::Kind::flush;
        default: return std::nullopt;
    }
}

class LogSession final : public Session {
public:
    LogSession(LogFile& log, const Capabilities& inner_can, std::unique_ptr<Session> inner)
        : log_(log), inner_can_(inner_can), inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override {
        if (request.op == Op::read) return inner_->serve(io, request);
        const auto kind = kind_of(request.op);
        if (!kind) return IoResult::from_errno(EOPNOTSUPP);
        const LogRecord record{.kind = *kind,
                               .fua = request.fua,
                               .no_unmap = request.no_unmap,
                               .queue = request.queue,
                               .range = {.offset = request.offset, .length = request.length}};
        if (record.data_length() > layers::kLogDataMost) return IoResult::from_errno(E2BIG);
        return change(io, request, record);
    }

    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    // No request goes on without its record, and none succeeds without its completion: when the log
    // cannot be written it says less than what the disk did, never more.
    Task<> change(Io& io, const Request& request, LogRecord record) {
        const std::span<std::byte> data =
            request.op == Op::write ? request.bytes() : std::span<std::byte>{};
        record.data_sum = layers::crc32c(data);
        record.place = log_.take_place(kLogUnit + data.size());
        LogBytes bytes = encode(record);
        std::array vectors = {iovec{bytes.data(), bytes.size()}, iovec{data.data(), data.size()}};
        const IoResult begun = co_await append(io, std::span(vectors), record.place);
        if (!begun.ok()) co_return begun;

        Request passed = request;
        passed.fua = request.fua && inner_can_.fua;
        IoResult result{};
        if (request.op != Op::flush || inner_can_.flush) {
            result = co_await inner_->serve(io, passed);
        }

        LogRecord completion{.kind = LogRecord::Kind::completion,
                             .queue = request.queue,
                             .request = record.place,
                             .error = result.error()};
        completion.place = log_.take_place(kLogUnit);
        bytes = encode(completion);
        vectors[0] = {bytes.data(), bytes.size()};
        const IoResult ended = co_await append(io, std::span(vectors).first(1), completion.place);
        if (result.ok() && !ended.ok()) co_return ended;
        co_return result;
    }

    Task<> append(Io& io, std::span<iovec> vectors, std::uint64_t place) {
        while (true) {
            while (!vectors.empty() && vectors.front().iov_len == 0) vectors = vectors.subspan(1);
            if (vectors.empty()) co_return IoResult{};
            const IoResult written = co_await io.writev(log_.descriptor(), vectors, place);
            if (!written.ok()) co_return written;
            if (written.count() == 0) co_return IoResult::from_errno(EIO);
            place += written.count();
            for (std::uint64_t left = written.count(); left > 0;) {
                iovec& first = vectors.front();
                const std::uint64_t used = std::min<std::uint64_t>(left, first.iov_len);
                first.iov_base = static_cast<std::byte*>(first.iov_base) + used;
                first.iov_len -= used;
                left -= used;
                if (first.iov_len == 0) vectors = vectors.subspan(1);
            }
        }
    }

    LogFile& log_;
    const Capabilities inner_can_;
    const std::unique_ptr<Session> inner_;
};

class LogBackend final : public Backend {
public:
    LogBackend(std::shared_ptr<Backend> inner, Fd file, std::uint64_t end)
        : inner_(std::move(inner)), log_(std::move(file), end) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "log"; }
    [[nodiscard]] Geometry geometry() const override { return inner_->geometry(); }
    [[nodiscard]] std::string identity() const override { return inner_->identity(); }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return inner_->counters();
    }
    [[nodiscard]] Capabilities capabilities() const override {
        // Flushes are what is recorded, also of a disk that has no need of them; there every write
        // is durable when it is answered.
        Capabilities can = inner_->capabilities();
        can.fua = can.fua || !can.flush;
        can.flush = true;
        return can;
    }
    [[nodiscard]] unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    [[nodiscard]] unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::sees; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto session = inner_->open_session(io);
        if (!session) return std::unexpected(session.error());
        return std::make_unique<LogSession>(log_, inner_->capabilities(), std::move(*session));
    }

private:
    const std::shared_ptr<Backend> inner_;
    LogFile log_;
};

struct Opened {
    Fd file{};
    std::uint64_t end = 0;
};

// Of the log layer's file.
class Opening {
public:
    Opening(const LogOptions& options, const LogHead& head) : path_(options.path), head_(head) {}

    [[nodiscard]] Result<Opened> make() const {
        Fd file(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR));
        if (!file.valid() && errno == EEXIST) {
            return refuse(EEXIST, "there is such a file already, and create only makes new ones",
                          "remove it, or leave out create to continue it");
        }
        if (!file.valid()) return refuse(errno, "it cannot be made");
        NewFile new_file(path_);
        if (auto locked = lock(file); !locked) return std::unexpected(locked.error());
        const LogBytes bytes = encode(head_);
        const ssize_t written = pwrite(file.get(), bytes.data(), bytes.size(), 0);
        const int code = written < 0 ? errno : EIO;
        if (written != static_cast<ssize_t>(bytes.size())) {
            return refuse(code, "it cannot be written");
        }
        new_file.keep();
        return Opened{.file = std::move(file), .end = kLogUnit};
    }

    [[nodiscard]] Result<Opened> resume() const {
        Fd file(open(path_.c_str(), O_RDWR | O_CLOEXEC));
        if (!file.valid()) {
            const int code = errno;
            return refuse(code, {}, code == ENOENT ? "add create to make it" : "");
        }
        // First: another server may still be at its end.
        if (auto locked = lock(file); !locked) return std::unexpected(locked.error());
        const auto reader = layers::LogReader::open(file.get(), path_);
        if (!reader) return std::unexpected(reader.error());
        const LogHead& old = reader->head();
        if (old.disk_size != head_.disk_size || old.block != head_.block) {
            return refuse(EINVAL, "it is of a disk of " + std::to_string(old.disk_size) +
                                      " bytes in blocks of " + std::to_string(old.block) +
                                      "; this one has " + std::to_string(head_.disk_size) +
                                      " in blocks of " + std::to_string(head_.block));
        }
        const off_t size = lseek(file.get(), 0, SEEK_END);
        if (size < 0) return refuse(errno, "its size cannot be found");
        return Opened{.file = std::move(file),
                      .end = round_up(static_cast<std::uint64_t>(size), kLogUnit)};
    }

private:
    [[nodiscard]] Result<void> lock(const Fd& file) const {
        const int code = lock_file(file.get());
        if (code == 0) return {};
        return refuse(code,
                      code == EBUSY ? "another server writes it" : "it cannot be locked (flock)");
    }
    [[nodiscard]] std::unexpected<Error> refuse(int code, std::string detail,
                                                std::string hint = {}) const {
        return std::unexpected(Error{.operation = "open log " + path_,
                                     .code = code,
                                     .detail = std::move(detail),
                                     .hint = std::move(hint)});
    }

    const std::string& path_;
    const LogHead head_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_log(std::shared_ptr<Backend> inner,
                                          const LogOptions& options) {
    ASHLAR_ASSERT(inner != nullptr);
    if (auto plain = layers::require_plain(*inner, "open log layer"); !plain) {
        return std::unexpected(plain.error());
    }
    const Geometry geometry = inner->geometry();
    const Opening opening(options,
                          {.disk_size = geometry.size, .block = geometry.logical_block_size});
    auto opened = options.create ? opening.make() : opening.resume();
    if (!opened) return std::unexpected(opened.error());
    return std::make_shared<LogBackend>(std::move(inner), std::move(opened->file), opened->end);
}

}  // namespace ashlar
