#include "backends/nbd/inbox.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ashlar::nbd {
namespace {

constexpr std::size_t kBufferBytes = 64 << 10;
constexpr std::size_t kRoomLeast = 16 << 10;  // before what is there moves to the front
// Data that is longer goes to its place at once; shorter is copied, many answers at a time.
constexpr std::uint32_t kLong = 16 << 10;
constexpr std::uint8_t kErrorsMost = 64;  // chunks that tell one, of one answer

static_assert(kErrorBytesMax <= kRoomLeast);

}  // namespace

Inbox::Inbox(Caller& caller, bool structured)
    : caller_(caller), structured_(structured), buffer_(kBufferBytes) {}

Inbox::Want Inbox::next() noexcept {
    Step step = Step::on;
    while (step == Step::on) {
        switch (part_) {
            case Part::header: step = take_header(); break;
            case Part::data: step = take_data(); break;
            case Part::hole: step = take_hole(); break;
            case Part::zeroes:
                step = left_ == 0 ? end_chunk() : want_direct(Want::Kind::zeroes, part_);
                break;
            case Part::error: step = take_error(); break;
        }
    }
    return want_;
}

void Inbox::came(std::uint32_t count) noexcept {
    if (!direct_) {
        end_ += count;
        return;
    }
    if (want_.kind == Want::Kind::move) begin_ += count;
    place_ += count;
    left_ -= count;
}

// ---- Headers -----------------------------------------------------------------------------------

Inbox::Step Inbox::take_header() noexcept {
    // A data chunk's offset is read with its header. Nothing that may follow a shorter header has
    // its own data within these bytes.
    const std::size_t most = structured_ ? kChunkBytes + kOffsetBytes : kSimpleReplyBytes;
    const auto bytes = there();
    if (bytes.size() < kMagicBytes) return want_stream(most - bytes.size());
    const std::size_t length = reply_header_bytes(bytes.first<kMagicBytes>());
    if (length == 0 || (length == kChunkBytes && !structured_)) return broken();
    if (bytes.size() < length) return want_stream(most - bytes.size());
    const auto header = decode_reply(bytes.first(length));
    if (!header) return broken();
    const bool with_offset = header->kind == ReplyHeader::Kind::data;
    if (with_offset && bytes.size() < length + kOffsetBytes) {
        return want_stream(most - bytes.size());
    }
    call_ = caller_.find(header->cookie);
    if (call_ == nullptr) return broken();
    if (!call_->sent) {
        want_ = {.kind = Want::Kind::settle, .call = call_};
        return Step::wants;
    }
    begin_ += length;
    return begin(*header);
}

Inbox::Step Inbox::begin(const ReplyHeader& header) noexcept {
    using Kind = ReplyHeader::Kind;
    done_ = header.done;
    left_ = header.length;
    switch (header.kind) {
        case Kind::simple: return begin_simple(header);
        case Kind::none: return done_ ? end_chunk() : broken();
        case Kind::data: {
            const std::uint64_t offset = decode_offset(there().first<kOffsetBytes>());
            begin_ += kOffsetBytes;
            return begin_data(offset, left_ - static_cast<std::uint32_t>(kOffsetBytes));
        }
        case Kind::hole: part_ = Part::hole; return is_read() ? Step::on : broken();
        case Kind::error:
            part_ = Part::error;
            return ++call_->errors <= kErrorsMost ? Step::on : broken();
    }
    return broken();
}

Inbox::Step Inbox::begin_simple(const ReplyHeader& header) noexcept {
    if (header.error != 0) {
        call_->error = errno_of(header.error);
        return end_chunk();
    }
    if (!is_read()) return end_chunk();
    return structured_ ? broken() : begin_data(call_->offset, call_->length);
}

Inbox::Step Inbox::begin_data(std::uint64_t offset, std::uint32_t length) noexcept {
    if (!is_read() || !call_->coverage.add(offset, length)) return broken();
    part_ = Part::data;
    place_ = static_cast<std::uint32_t>(offset - call_->offset);
    left_ = length;
    exact_ = !call_->buffer.is_memory() || length >= kLong;
    return Step::on;
}

// ---- What follows a header ---------------------------------------------------------------------

Inbox::Step Inbox::take_data() noexcept {
    if (left_ == 0) return end_chunk();
    const auto bytes = there();
    if (bytes.empty()) {
        return exact_ ? want_direct(Want::Kind::bytes, part_) : want_stream(kBufferBytes);
    }
    const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), left_));
    if (!call_->buffer.is_memory()) {
        // It came with what was read for a call that is in memory.
        want_direct(Want::Kind::move, part_);
        want_.into = want_.into.part(0, count);
        want_.from = Buffer::memory(buffer_.data() + begin_, count);
        return Step::wants;
    }
    std::memcpy(call_->buffer.data() + place_, bytes.data(), count);
    begin_ += count;
    place_ += count;
    left_ -= count;
    return Step::on;
}

Inbox::Step Inbox::take_hole() noexcept {
    const auto bytes = there();
    if (bytes.size() < kHoleBytes) return want_stream(kHoleBytes - bytes.size());
    const Hole hole = decode_hole(bytes.first<kHoleBytes>());
    begin_ += kHoleBytes;
    if (!call_->coverage.add(hole.offset, hole.length)) return broken();
    place_ = static_cast<std::uint32_t>(hole.offset - call_->offset);
    left_ = hole.length;
    part_ = Part::zeroes;
    if (!call_->buffer.is_memory()) return Step::on;
    std::memset(call_->buffer.data() + place_, 0, left_);
    left_ = 0;
    return Step::on;
}

Inbox::Step Inbox::take_error() noexcept {
    const auto bytes = there();
    if (bytes.size() < left_) return want_stream(left_ - bytes.size());
    const int error = decode_error(bytes.first(left_));
    begin_ += left_;
    if (error == EPROTO) return broken();
    if (call_->error == 0) call_->error = error;
    return end_chunk();
}

Inbox::Step Inbox::end_chunk() noexcept {
    part_ = Part::header;
    if (!done_) return Step::on;
    const bool whole = !is_read() || call_->error != 0 || call_->coverage.complete();
    if (!whole) return broken();
    Call& call = *std::exchange(call_, nullptr);
    caller_.answered(call, IoResult::from_errno(call.error));
    return Step::on;
}

// ---- What is needed ----------------------------------------------------------------------------

// most: how many if nothing else may be read with it.
Inbox::Step Inbox::want_stream(std::size_t most) noexcept {
    if (begin_ == end_) {
        begin_ = end_ = 0;
    } else if (buffer_.size() - end_ < kRoomLeast) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    const std::size_t room = buffer_.size() - end_;
    const auto length = static_cast<std::uint32_t>(exact_ ? std::min(most, room) : room);
    direct_ = false;
    want_ = {.kind = Want::Kind::bytes, .into = Buffer::memory(buffer_.data() + end_, length)};
    return Step::wants;
}

Inbox::Step Inbox::want_direct(Want::Kind kind, Part part) noexcept {
    part_ = part;
    direct_ = true;
    want_ = {.kind = kind, .into = call_->buffer.part(place_, left_)};
    return Step::wants;
}

Inbox::Step Inbox::broken() noexcept {
    want_ = {.kind = Want::Kind::broken};
    return Step::wants;
}

}  // namespace ashlar::nbd
