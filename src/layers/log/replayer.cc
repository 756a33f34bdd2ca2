#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <random>
#include <utility>

#include <ashlar/log_replayer.h>

#include "base/assert.h"
#include "layers/log/image.h"
#include "layers/log/pending.h"
#include "layers/log/reader.h"

namespace ashlar {

using layers::Image;
using layers::LogReader;
using layers::LogRecord;
using layers::Pending;
using Kind = LogRecord::Kind;

namespace {

constexpr std::uint64_t kPiece = 1 << 20;  // bytes moved at once
constexpr std::uint64_t kAnyPlace = UINT64_MAX;

bool is_zero(std::span<const std::byte> bytes) noexcept {
    return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

class LogReplayer::Replay {
public:
    Replay(LogReader reader, std::optional<Image> image)
        : log(std::move(reader)), image_(std::move(image)) {}

    Result<std::optional<LogBoundary>> advance();
    Result<void> add_unflushed(std::uint64_t seed);
    Result<void> complete();
    Result<std::optional<std::uint64_t>> find_impossible(const std::string& disk);

    LogReader log;

private:
    // The boundary that comes next, and what it makes durable.
    struct Ahead {
        LogBoundary::Kind kind = LogBoundary::Kind::flush;
        std::uint64_t request = 0;  // the place of the flush, or of the write with FUA
        std::uint64_t sequence = 0;
    };
    Result<void> take_back();
    void begin(const LogRecord& record);
    Result<std::optional<Ahead>> end(const LogRecord& completion);
    Result<void> look_ahead();
    Result<void> reach(const Ahead& ahead);
    template <class Durable>
    Result<void> make_durable(Durable is_durable);
    Result<void> apply(const Pending& pending, Range range);
    Result<bool> explains(std::uint64_t offset, std::span<const std::byte> block);

    std::optional<Image> image_;
    std::map<std::uint64_t, Pending> pending_;  // by place: in the order in which they began
    std::vector<std::byte> piece_;
    std::uint64_t sequence_ = 0;  // of the boundary that the image is of; 0 before the first
    std::optional<Ahead> ahead_;  // what was begun and answered before it is in pending_
    bool at_end_ = false;         // none is ahead
};

Result<void> LogReplayer::Replay::take_back() {
    if (!image_) return {};
    return image_->restore();
}

void LogReplayer::Replay::begin(const LogRecord& record) {
    Pending& pending = pending_[record.place];
    pending.record = record;
    if (record.kind != Kind::flush) pending.left = {record.range};
}

Result<std::optional<LogReplayer::Replay::Ahead>> LogReplayer::Replay::end(
    const LogRecord& completion) {
    const auto found = pending_.find(completion.request);
    if (found == pending_.end() || found->second.ended) {
        return std::unexpected(
            Error{.operation = "replay the log",
                  .code = EBADMSG,
                  .detail = "it is damaged: byte " + std::to_string(completion.place) +
                            " answers the request of byte " + std::to_string(completion.request) +
                            (found == pending_.end() ? ", which is not there" : " once more")});
    }
    const bool success = completion.error == 0;
    Pending& pending = found->second;
    pending.ended = true;
    if (success) pending.completed_at = completion.place;
    Ahead ahead{.request = completion.request, .sequence = completion.end()};
    if (pending.record.kind == Kind::flush) {
        pending_.erase(found);
    } else if (pending.record.fua) {
        ahead.kind = LogBoundary::Kind::fua;
    } else {
        return std::nullopt;
    }
    return success ? std::optional(ahead) : std::nullopt;
}

Result<void> LogReplayer::Replay::look_ahead() {
    ahead_.reset();
    while (!ahead_) {
        const auto record = log.next();
        if (!record) return std::unexpected(record.error());
        at_end_ = !*record;
        if (at_end_) return {};
        if ((*record)->kind != Kind::completion) {
            begin(**record);
            continue;
        }
        auto ended = end(**record);
        if (!ended) return std::unexpected(ended.error());
        ahead_ = *ended;
    }
    return {};
}

Result<void> LogReplayer::Replay::reach(const Ahead& ahead) {
    if (ahead.kind == LogBoundary::Kind::flush) {
        return make_durable(
            [&](const Pending& one) { return one.completed_before(ahead.request); });
    }
    return make_durable([&](const Pending& one) { return one.record.place == ahead.request; });
}

// What is durable replaces, where they overlap, what began before it and is not.
template <class Durable>
Result<void> LogReplayer::Replay::make_durable(Durable is_durable) {
    std::vector<Pending*> others;
    for (auto at = pending_.begin(); at != pending_.end();) {
        Pending& pending = at->second;
        if (!is_durable(std::as_const(pending))) {
            others.push_back(&pending);
            ++at;
            continue;
        }
        for (const Range& piece : pending.left) {
            if (auto applied = apply(pending, piece); !applied) return applied;
            for (Pending* other : others) other->cut(piece);
        }
        at = pending_.erase(at);
    }
    // What has failed and was replaced since then plays no part any more.
    std::erase_if(pending_,
                  [](const auto& one) { return one.second.ended && one.second.left.empty(); });
    return {};
}

Result<void> LogReplayer::Replay::apply(const Pending& pending, Range range) {
    if (!image_) return {};
    if (pending.record.kind != Kind::write) return image_->zero(range);
    for (std::uint64_t done = 0; done < range.length; done += piece_.size()) {
        piece_.resize(std::min(kPiece, range.length - done));
        const std::uint64_t offset = range.offset + done;
        auto moved = log.read_data(pending.record, pending.data_at(offset), piece_);
        if (moved) moved = image_->write(offset, piece_);
        if (!moved) return moved;
    }
    return {};
}

Result<std::optional<LogBoundary>> LogReplayer::Replay::advance() {
    if (auto taken = take_back(); !taken) return std::unexpected(taken.error());
    if (at_end_) return std::nullopt;
    LogBoundary boundary{.sequence = log.position()};
    if (ahead_) {
        if (auto reached = reach(*ahead_); !reached) return std::unexpected(reached.error());
        boundary.kind = ahead_->kind;
        boundary.sequence = ahead_->sequence;
    }
    sequence_ = boundary.sequence;
    if (auto looked = look_ahead(); !looked) return std::unexpected(looked.error());
    if (ahead_) boundary.until = ahead_->sequence;
    boundary.unflushed = static_cast<std::uint64_t>(
        std::ranges::count_if(pending_, [](const auto& one) { return !one.second.left.empty(); }));
    return boundary;
}

Result<void> LogReplayer::Replay::add_unflushed(std::uint64_t seed) {
    ASHLAR_ASSERT(image_ && sequence_ != 0);
    if (auto taken = take_back(); !taken) return taken;
    std::mt19937_64 random(seed * 0x9e3779b97f4a7c15 + sequence_);
    const auto draw = [&](std::uint64_t sides) { return random() % sides; };
    // With each chance: how likely a write is there in whole, in part, or not at all. A crash
    // leaves much or little of it, so that is drawn too.
    const std::uint64_t whole = draw(10);
    std::vector<std::pair<const Pending*, Range>> chosen;
    for (const auto& [place, pending] : pending_) {
        const std::uint64_t drawn = draw(10);
        for (const Range& piece : pending.left) {
            if (drawn < whole) {
                chosen.emplace_back(&pending, piece);
            } else if (draw(2) == 0) {
                for (const Range& some : layers::split(piece, log.head().block)) {
                    if (draw(2) == 0) chosen.emplace_back(&pending, some);
                }
            }
        }
    }
    std::vector<Range> ranges;
    ranges.reserve(chosen.size());
    for (const auto& [pending, range] : chosen) ranges.push_back(range);
    if (auto saved = image_->save(std::move(ranges)); !saved) return saved;
    for (const auto& [pending, range] : chosen) {
        if (auto applied = apply(*pending, range); !applied) return applied;
    }
    return {};
}

Result<void> LogReplayer::Replay::complete() {
    ASHLAR_ASSERT(at_end_);
    if (auto taken = take_back(); !taken) return taken;
    return make_durable([](const Pending& one) { return one.completed_before(kAnyPlace); });
}

// Whether something that is not durable would leave this block so.
Result<bool> LogReplayer::Replay::explains(std::uint64_t offset, std::span<const std::byte> block) {
    std::vector<std::byte> data(block.size());
    for (const auto& [place, pending] : pending_) {
        if (!pending.covers(offset)) continue;
        if (pending.record.kind == Kind::discard) return true;
        if (pending.record.kind == Kind::write_zeroes) {
            if (is_zero(block)) return true;
            continue;
        }
        auto read = log.read_data(pending.record, pending.data_at(offset), data);
        if (!read) return std::unexpected(read.error());
        if (std::memcmp(data.data(), block.data(), block.size()) == 0) return true;
    }
    return false;
}

Result<std::optional<std::uint64_t>> LogReplayer::Replay::find_impossible(const std::string& disk) {
    ASHLAR_ASSERT(image_ && at_end_);
    if (auto taken = take_back(); !taken) return std::unexpected(taken.error());
    auto found = Image::open_to_read(disk, log.head().disk_size);
    if (!found) return std::unexpected(found.error());
    std::vector<std::byte> durable;
    std::vector<std::byte> held;
    const std::uint64_t block = log.head().block;
    for (std::uint64_t at = 0; at < log.head().disk_size; at += durable.size()) {
        durable.resize(std::min(kPiece, log.head().disk_size - at));
        held.resize(durable.size());
        auto read = image_->read(at, durable);
        if (read) read = found->read(at, held);
        if (!read) return std::unexpected(read.error());
        if (std::memcmp(durable.data(), held.data(), held.size()) == 0) continue;
        for (std::size_t in = 0; in < held.size(); in += block) {
            if (std::memcmp(durable.data() + in, held.data() + in, block) == 0) continue;
            const auto explained = explains(at + in, std::span(held).subspan(in, block));
            if (!explained) return std::unexpected(explained.error());
            if (!*explained) return at + in;
        }
    }
    return std::nullopt;
}

// ---- What the public class hands on ------------------------------------------------------------

LogReplayer::LogReplayer(std::unique_ptr<Replay> replay) noexcept : replay_(std::move(replay)) {}
LogReplayer::LogReplayer(LogReplayer&&) noexcept = default;
LogReplayer& LogReplayer::operator=(LogReplayer&&) noexcept = default;
LogReplayer::~LogReplayer() = default;

Result<LogReplayer> LogReplayer::open(const ReplayOptions& options) {
    auto log = LogReader::open(options.log);
    if (!log) return std::unexpected(log.error());
    std::optional<Image> image;
    if (!options.image.empty()) {
        auto opened = Image::open(options.image, log->head().disk_size, options.over);
        if (!opened) return std::unexpected(opened.error());
        image = std::move(*opened);
    }
    return LogReplayer(std::make_unique<Replay>(std::move(*log), std::move(image)));
}

std::uint64_t LogReplayer::disk_size() const noexcept { return replay_->log.head().disk_size; }
std::uint32_t LogReplayer::logical_block() const noexcept { return replay_->log.head().block; }
std::uint64_t LogReplayer::sequence() const noexcept { return replay_->log.position(); }
const std::vector<Range>& LogReplayer::gaps() const noexcept { return replay_->log.gaps(); }
Result<std::optional<LogBoundary>> LogReplayer::advance() { return replay_->advance(); }
Result<void> LogReplayer::add_unflushed(std::uint64_t seed) { return replay_->add_unflushed(seed); }
Result<void> LogReplayer::complete() { return replay_->complete(); }
Result<std::optional<std::uint64_t>> LogReplayer::find_impossible(const std::string& disk) {
    return replay_->find_impossible(disk);
}

}  // namespace ashlar
