// What an NBD server says while calls wait. Any bytes in pieces of any size: the inbox does what a
// decoder does that has the whole stream before it and counts each byte of a read by itself.
//
// Input: 1 if reads are answered in chunks; how many sizes follow; sizes of pieces, over and over,
// 255 being all there is; what the server says.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "backends/nbd/inbox.h"

namespace {

using namespace ashlar;
using namespace ashlar::nbd;
using Kind = Inbox::Want::Kind;
using Bytes = std::vector<std::byte>;

constexpr std::uint32_t kAddress = 0x12345;  // of each registered buffer

void require(bool condition) {
    if (!condition) std::abort();
}

struct Question {
    Command command = Command::read;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
    bool registered = false;
    bool sent = true;
};
// Call n has cookie n + 1. The last two: a read that goes to its place at once, and one whose end
// is that of all offsets.
constexpr Question kAsked[] = {
    {.offset = 0, .length = 16},
    {.offset = 100, .length = 40},
    {.offset = 64, .length = 32, .registered = true},
    {.command = Command::write, .offset = 512, .length = 24},
    {.command = Command::flush},
    {.offset = 8, .length = 20, .sent = false},
    {.command = Command::write_zeroes, .offset = 0, .length = 4096, .sent = false},
    {.offset = 1 << 20, .length = 17 << 10},
    {.offset = UINT64_MAX - 33, .length = 33},
};

// What became of a call.
struct Outcome {
    std::vector<std::byte> content{};
    int error = -1;  // -1: it waits

    friend bool operator==(const Outcome&, const Outcome&) = default;
};
std::vector<Outcome> make_outcomes() {
    std::vector<Outcome> made;
    for (const Question& one : kAsked)
        made.push_back({.content = Bytes(one.length, std::byte{0xee})});
    return made;
}

// How the decoder of the whole comes to its end.
struct End {
    bool broken = false;
};
class Model {
public:
    Model(std::span<const std::byte> stream, bool structured)
        : stream_(stream), structured_(structured) {
        for (std::size_t i = 0; i < came_.size(); ++i) came_[i].resize(kAsked[i].length);
        try {
            for (;;) take_reply();
        } catch (const End& end) {
            broken = end.broken;
        }
    }
    bool broken = false;
    std::vector<Outcome> outcomes = make_outcomes();

private:
    static void need(bool right) {
        if (!right) throw End{.broken = true};
    }
    std::span<const std::byte> take(std::size_t count) {
        if (stream_.size() < count) throw End{};
        const auto taken = stream_.first(count);
        stream_ = stream_.subspan(count);
        return taken;
    }
    static std::uint64_t value(std::span<const std::byte> bytes) {
        std::uint64_t value = 0;
        for (const std::byte one : bytes) value = value << 8 | std::to_integer<unsigned>(one);
        return value;
    }
    std::uint64_t number(std::size_t size) { return value(take(size)); }

    void take_reply() {
        const auto magic = number(4);
        const bool chunk = magic == 0x668e33ef && structured_;
        need(chunk || magic == 0x67446698);
        const auto first = number(4);  // an error, or flags and the chunk's type
        const auto cookie = number(8);
        const auto length = chunk ? number(4) : 0;
        const auto type = chunk ? first & 0xffff : 0;
        const bool tells_error = (type & 0x8000) != 0;
        if (tells_error) need(length >= 6 && length <= 4 + 2 + 4096 + 8);
        if (chunk && !tells_error) need(type <= 2);
        if (chunk && type == 0) need(length == 0);
        if (type == 1) need(length > 8);
        if (type == 2) need(length == 12);
        const auto offset = type == 1 ? number(8) : 0;
        need(cookie != 0 && cookie <= std::size(kAsked));
        const std::size_t call = cookie - 1;
        need(outcomes[call].error == -1);
        const bool is_read = kAsked[call].command == Command::read;
        const bool done = !chunk || (first >> 16 & 1) != 0;
        if (!chunk && first != 0) {
            told_[call] = {known(first)};
        } else if (!chunk && is_read) {
            need(!structured_);
            put_data(call, kAsked[call].offset, kAsked[call].length);
        } else if (tells_error) {
            take_error(call, length);
        } else if (type == 1) {
            need(is_read);
            put_data(call, offset, length - 8);
        } else if (type == 2) {
            need(is_read);
            put_zeroes(call);
        } else {
            need(done);
        }
        if (!done) return;
        const bool whole = std::ranges::all_of(came_[call], [](bool one) { return one; });
        need(whole || !is_read || !told_[call].empty());
        outcomes[call].error = told_[call].empty() ? 0 : told_[call].front();
    }
    void take_error(std::size_t call, std::uint64_t length) {
        need(told_[call].size() < 64);
        const auto payload = take(length);
        const auto error = value(payload.first(4));
        need(error != 0 && value(payload.subspan(4, 2)) <= length - 6);
        told_[call].push_back(known(error));
    }
    void put_data(std::size_t call, std::uint64_t offset, std::uint64_t length) {
        std::byte* const at = claim(call, offset, length);
        std::ranges::copy(stream_.first(std::min<std::size_t>(length, stream_.size())), at);
        take(length);
    }
    void put_zeroes(std::size_t call) {
        const auto payload = take(12);
        const auto length = value(payload.subspan(8));
        std::fill_n(claim(call, value(payload.first(8)), length), length, std::byte{0});
    }
    // Each byte once, and never in more than 8 places with gaps between them.
    std::byte* claim(std::size_t call, std::uint64_t offset, std::uint64_t length) {
        const std::uint64_t from = offset - kAsked[call].offset;
        auto& came = came_[call];
        need(length != 0 && from <= came.size() && length <= came.size() - from);
        int places = 0;
        for (std::uint64_t i = 0; i < came.size(); ++i) {
            if (i >= from && i < from + length) {
                need(!came[i]);
                came[i] = true;
            }
            places += came[i] && (i == 0 || !came[i - 1]) ? 1 : 0;
        }
        need(places <= 8);
        return outcomes[call].content.data() + from;
    }
    static int known(std::uint64_t error) {
        constexpr std::array<std::uint64_t, 8> same = {1, 5, 12, 22, 28, 75, 95, 108};
        return std::ranges::find(same, error) != same.end() ? static_cast<int>(error) : EIO;
    }

    std::span<const std::byte> stream_;
    const bool structured_;
    std::array<std::vector<bool>, std::size(kAsked)> came_{};
    std::array<std::vector<int>, std::size(kAsked)> told_{};
};

class Asked final : public Caller {
public:
    Asked() {
        for (std::size_t i = 0; i < calls_.size(); ++i) {
            const Question& asked = kAsked[i];
            Call& call = calls_[i];
            call.command = asked.command;
            call.offset = asked.offset;
            call.length = asked.length;
            call.sent = asked.sent;
            call.cookie = i + 1;
            if (asked.command == Command::read) call.coverage = {asked.offset, asked.length};
            std::byte* const data = outcomes[i].content.data();
            call.buffer = asked.registered ? Buffer::registered(static_cast<std::uint16_t>(i),
                                                                kAddress, asked.length)
                                           : Buffer::memory(data, asked.length);
        }
    }
    Call* find(std::uint64_t cookie) noexcept override {
        const bool waits =
            cookie != 0 && cookie <= calls_.size() && outcomes[cookie - 1].error == -1;
        return waits ? &calls_[cookie - 1] : nullptr;
    }
    void answered(Call& call, IoResult result) noexcept override {
        Outcome& outcome = outcomes[call.cookie - 1];
        require(outcome.error == -1 && call.sent);
        outcome.error = result.error();
        call = {};  // it is gone
    }
    // Where a buffer is; those in memory lie alone, for the sanitizer.
    std::byte* place(Buffer buffer) {
        if (buffer.is_memory()) return buffer.data();
        auto& content = outcomes.at(buffer.index()).content;
        require(buffer.address() >= kAddress);
        require(buffer.address() - kAddress + buffer.length() <= content.size());
        return content.data() + (buffer.address() - kAddress);
    }
    void leave(const Call* call) {
        require(call != nullptr && !call->sent && find(call->cookie) == call);
        calls_[call->cookie - 1].sent = true;
    }

    std::vector<Outcome> outcomes = make_outcomes();

private:
    std::array<Call, std::size(kAsked)> calls_{};
};

// True: broken.
bool feed(Inbox& inbox, Asked& asked, std::span<const std::byte> stream,
          std::span<const std::uint8_t> sizes) {
    for (std::size_t turn = 0;; ++turn) {
        const Inbox::Want want = inbox.next();
        if (want.kind == Kind::broken) return true;
        if (want.kind == Kind::settle) {
            asked.leave(want.call);
            continue;
        }
        const bool of_stream = want.kind == Kind::bytes;
        require(want.into.length() > 0 && (of_stream || !want.into.is_memory()));
        if (of_stream && stream.empty()) return false;
        const std::size_t size = sizes.empty() ? 255 : sizes[turn % sizes.size()];
        std::size_t count = size == 255 ? want.into.length() : size + 1;
        count = std::min<std::size_t>(count, want.into.length());
        std::byte* const into = asked.place(want.into);
        if (of_stream) {
            count = std::min(count, stream.size());
            std::memcpy(into, stream.data(), count);
            stream = stream.subspan(count);
        } else if (want.kind == Kind::zeroes) {
            std::memset(into, 0, count);
        } else {
            require(want.from.is_memory() && want.from.length() == want.into.length());
            std::memcpy(into, want.from.data(), count);
        }
        inbox.came(static_cast<std::uint32_t>(count));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::span bytes(data, size);
    if (bytes.size() < 2) return 0;
    const bool structured = (bytes[0] & 1) != 0;
    const auto sizes = bytes.subspan(2).first(std::min<std::size_t>(bytes[1], bytes.size() - 2));
    const auto stream = std::as_bytes(bytes.subspan(2 + sizes.size()));
    const Model model(stream, structured);
    Asked asked;
    Inbox inbox(asked, structured);
    require(feed(inbox, asked, stream, sizes) == model.broken);
    require(asked.outcomes == model.outcomes);
    return 0;
}
