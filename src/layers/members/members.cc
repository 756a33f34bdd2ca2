#include "layers/members/members.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/units.h"
#include "layers/plain.h"

namespace ashlar::layers {
namespace {

constexpr std::size_t kMembersMin = 2;
constexpr std::size_t kMembersMax = 64;
// How many requests to members one frame has room for.
constexpr std::size_t kParts = 8;

// What a zero stands for, as Geometry says.
constexpr std::uint64_t kRangeMaxDefault = std::uint64_t{1} << 30;
constexpr std::uint32_t kGranularityDefault = 4096;

bool moves_data(const Request& request) noexcept {
    return request.op == Op::read || request.op == Op::write;
}

// The first error stays.
void keep_first_error(IoResult& result, IoResult part) noexcept {
    if (result.ok() && !part.ok()) result = part;
}

struct Member {
    std::unique_ptr<Session> session;
    Capabilities can;
    std::uint32_t chunk = 0;  // no read or write may cross a multiple of it
};

class JoinedSession final : public Session {
public:
    // layout outlives the session.
    JoinedSession(const Layout& layout, const Capabilities& can, std::vector<Member> members)
        : layout_(layout), can_(can), members_(std::move(members)) {}

    Task<> serve(Io& io, const Request& request) override {
        if (const int code = refusal(request); code != 0) return IoResult::from_errno(code);
        if (request.op == Op::flush) return spread(io, request, 0);
        const Layout::Piece piece = first_piece(request, 0);
        if (piece.range.length == request.length) {
            if (piece.range.offset != request.offset || request.fua) {
                return forward(io, request, piece);
            }
            return members_[piece.member].session->serve(io, request);
        }
        return moves_data(request) ? transfer(io, request) : spread(io, request, 0);
    }

    void cancel_requests() noexcept override {
        for (const Member& member : members_) member.session->cancel_requests();
    }
    void close() noexcept override {
        for (const Member& member : members_) member.session->close();
    }

private:
    // The errno for what was not advertised, or 0.
    [[nodiscard]] int refusal(const Request& request) const noexcept {
        switch (request.op) {
            case Op::read: return 0;
            case Op::write: return can_.read_only ? EROFS : 0;
            case Op::flush: return can_.flush ? 0 : EOPNOTSUPP;
            case Op::discard: return can_.read_only ? EROFS : can_.discard ? 0 : EOPNOTSUPP;
            case Op::write_zeroes:
                return can_.read_only ? EROFS : can_.write_zeroes ? 0 : EOPNOTSUPP;
            default: return EOPNOTSUPP;
        }
    }

    // The piece that begins `done` bytes into the request, as far as its member takes it at once.
    [[nodiscard]] Layout::Piece first_piece(const Request& request,
                                            std::uint64_t done) const noexcept {
        Layout::Piece piece = layout_.first_piece({request.offset + done, request.length - done});
        const std::uint64_t chunk = members_[piece.member].chunk;
        if (chunk != 0 && moves_data(request)) {
            piece.range.length = std::min(piece.range.length, chunk - piece.range.offset % chunk);
        }
        return piece;
    }

    // The request to a member. done: where in the request's data the piece begins.
    [[nodiscard]] Request part_of(const Request& request, const Layout::Piece& piece,
                                  std::uint64_t done) const noexcept {
        Request part = request;
        part.offset = piece.range.offset;
        part.length = piece.range.length;
        // A member without a cache has no FUA, and needs none.
        part.fua = request.fua && can_.fua && members_[piece.member].can.fua;
        if (moves_data(request)) {
            part.buffer = request.buffer.part(static_cast<std::uint32_t>(done),
                                              static_cast<std::uint32_t>(part.length));
        }
        return part;
    }

    // A request that lies on one member.
    Task<> forward(Io& io, const Request& request, Layout::Piece piece) {
        const Request part = part_of(request, piece, 0);
        co_return co_await members_[piece.member].session->serve(io, part);
    }

    // A read or write of several pieces: so many at once as there is room for, then the next.
    Task<> transfer(Io& io, const Request& request) {
        std::array<Request, kParts> parts;
        std::array<Task<>, kParts> tasks;
        IoResult result;
        for (std::uint64_t done = 0; done < request.length && result.ok();) {
            std::size_t count = 0;
            for (; count < kParts && done < request.length; ++count) {
                const Layout::Piece piece = first_piece(request, done);
                parts[count] = part_of(request, piece, done);
                tasks[count] = members_[piece.member].session->serve(io, parts[count]);
                done += piece.range.length;
            }
            for (std::size_t part = 0; part < count; ++part) {
                // NOLINTNEXTLINE(misc-const-correctness): awaiting it changes it.
                Task<>& task = tasks[part];
                const IoResult one = co_await task;
                const bool is_short =
                    one.ok() && one.count() != 0 && one.count() != parts[part].length;
                keep_first_error(result, is_short ? IoResult(std::errc::io_error) : one);
            }
            // The last frame first: so the arena has the room again for the next ones.
            while (count > 0) tasks[--count] = Task<>();
        }
        co_return result;
    }

    // Anything else: to each member its share of the range, or a flush if it has a cache. From
    // member `first` on; all at once.
    Task<> spread(Io& io, const Request& request, std::size_t first) {
        std::array<Request, kParts> parts;
        std::array<Task<>, kParts> tasks;
        std::size_t count = 0;
        std::size_t index = first;
        for (; index < members_.size() && count < kParts; ++index) {
            if (!find_share(request, index, parts[count])) continue;
            tasks[count] = members_[index].session->serve(io, parts[count]);
            ++count;
        }
        Task<> others;
        if (index < members_.size()) others = spread(io, request, index);
        IoResult result;
        for (auto& task : std::span(tasks).first(count)) {
            keep_first_error(result, co_await task);
        }
        keep_first_error(result, co_await others);
        co_return result;
    }

    // False: the request is nothing to the member.
    [[nodiscard]] bool find_share(const Request& request, std::size_t index,
                                  Request& part) const noexcept {
        if (request.op == Op::flush) {
            part = request;
            return members_[index].can.flush;
        }
        const Range share = layout_.share({request.offset, request.length}, index);
        part = part_of(request, {.member = index, .range = share}, 0);
        return share.length != 0;
    }

    const Layout& layout_;
    const Capabilities can_;
    const std::vector<Member> members_;
};

Capabilities join_capabilities(const Backends& members, const Geometry& geometry) {
    // join_geometries leaves 0 where no member can take a whole block.
    Capabilities joined{.fua = true,
                        .discard = geometry.discard_max != 0,
                        .write_zeroes = geometry.write_zeroes_max != 0};
    for (const auto& member : members) {
        const Capabilities can = member->capabilities();
        joined.flush |= can.flush;
        joined.fua &= can.fua || !can.flush;
        joined.discard &= can.discard;
        joined.write_zeroes &= can.write_zeroes;
        joined.read_only |= can.read_only;
    }
    joined.fua &= joined.flush;
    return joined;
}

class JoinedBackend final : public Backend {
public:
    JoinedBackend(std::string_view name, Backends members, const Geometry& geometry,
                  std::unique_ptr<const Layout> layout)
        : name_(name),
          members_(std::move(members)),
          geometry_(geometry),
          capabilities_(join_capabilities(members_, geometry)),
          layout_(std::move(layout)) {}

    [[nodiscard]] std::string_view name() const noexcept override { return name_; }
    [[nodiscard]] Geometry geometry() const override { return geometry_; }
    [[nodiscard]] std::string identity() const override {
        std::string all;
        for (const auto& member : members_) {
            const std::string one = member->identity();
            if (one.empty()) return {};
            all += (all.empty() ? "" : ", ") + one;
        }
        return all;
    }
    // Sums: of members that count the same.
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        std::vector<BackendCounter> sums;
        for (const auto& member : members_) {
            for (BackendCounter& one : member->counters()) {
                const auto same = std::ranges::find(sums, one.name, &BackendCounter::name);
                if (same != sums.end()) {
                    same->value += one.value;
                } else {
                    sums.push_back(std::move(one));
                }
            }
        }
        return sums;
    }
    [[nodiscard]] Capabilities capabilities() const override { return capabilities_; }
    [[nodiscard]] DataAccess data_access() const noexcept override {
        const bool all_route = std::ranges::all_of(members_, [](const auto& member) {
            return member->data_access() == DataAccess::routes;
        });
        return all_route ? DataAccess::routes : DataAccess::sees;
    }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        std::uint32_t most = 0;
        for (const auto& member : members_) most = std::max(most, member->copied_write_max());
        return most;
    }
    [[nodiscard]] unsigned sessions_max() const noexcept override {
        unsigned least = 0;
        for (const auto& member : members_) {
            const unsigned one = member->sessions_max();
            if (least == 0 || (one != 0 && one < least)) least = one;
        }
        return least;
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        std::vector<Member> opened;
        for (const auto& member : members_) {
            auto session = member->open_session(io);
            if (!session) return std::unexpected(session.error());
            opened.push_back({.session = std::move(*session),
                              .can = member->capabilities(),
                              .chunk = member->geometry().chunk});
        }
        return std::make_unique<JoinedSession>(*layout_, capabilities_, std::move(opened));
    }

private:
    const std::string_view name_;
    const Backends members_;
    const Geometry geometry_;
    const Capabilities capabilities_;
    const std::unique_ptr<const Layout> layout_;
};

template <class T>
T or_default(T value, std::type_identity_t<T> otherwise) {
    return value != 0 ? value : otherwise;
}

// The smaller of two limits, where zero is none.
template <class T>
T smaller(T one, T other) {
    return one == 0 || other == 0 ? std::max(one, other) : std::min(one, other);
}

Result<void> check_members(std::string_view operation, const Backends& members) {
    if (members.size() < kMembersMin || members.size() > kMembersMax) {
        return std::unexpected(invalid_members(
            operation,
            std::to_string(members.size()) + " members were given; allowed are 2 to 64"));
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
        ASHLAR_ASSERT(members[i] != nullptr);
        const auto earlier =
            std::find(members.begin(), members.begin() + std::ptrdiff_t(i), members[i]);
        if (earlier != members.begin() + std::ptrdiff_t(i)) {
            return std::unexpected(invalid_members(
                operation, "members " + std::to_string(earlier - members.begin()) + " and " +
                               std::to_string(i) + " are the same one; each may be there once"));
        }
        if (auto valid = check_geometry(members[i]->geometry()); !valid) {
            return std::unexpected(invalid_members(
                operation, "member " + std::to_string(i) + ": " + valid.error().detail));
        }
    }
    return {};
}

}  // namespace

Error invalid_members(std::string_view operation, std::string detail) {
    return {.operation = std::string(operation), .code = EINVAL, .detail = std::move(detail)};
}

Result<Geometry> join_geometries(std::string_view operation, const Backends& members) {
    if (auto valid = check_members(operation, members); !valid) {
        return std::unexpected(valid.error());
    }
    Geometry joined{.physical_block_size = 0,
                    .discard_max = std::numeric_limits<std::uint64_t>::max(),
                    .write_zeroes_max = std::numeric_limits<std::uint64_t>::max()};
    for (const auto& member : members) {
        if (auto plain = require_plain(*member, operation); !plain) {
            return std::unexpected(plain.error());
        }
        const Geometry one = member->geometry();
        // A piece may begin at any block of a request's data, and its data too must be aligned.
        joined.logical_block_size =
            std::max({joined.logical_block_size, one.logical_block_size, one.dma_alignment});
        joined.physical_block_size = std::max(joined.physical_block_size, one.physical_block_size);
        joined.io_min = std::max(joined.io_min, one.io_min);
        joined.io_opt = std::max(joined.io_opt, one.io_opt);
        joined.discard_granularity = std::max(
            joined.discard_granularity, or_default(one.discard_granularity, kGranularityDefault));
        joined.discard_max =
            std::min(joined.discard_max, or_default(one.discard_max, kRangeMaxDefault));
        joined.write_zeroes_max =
            std::min(joined.write_zeroes_max, or_default(one.write_zeroes_max, kRangeMaxDefault));
        joined.rotational |= one.rotational;
        joined.dma_alignment = std::max(joined.dma_alignment, one.dma_alignment);
        joined.segment_max = smaller(joined.segment_max, one.segment_max);
        joined.segments_max = smaller(joined.segments_max, one.segments_max);
        joined.segment_boundary = smaller(joined.segment_boundary, one.segment_boundary);
    }
    const std::uint32_t block = joined.logical_block_size;
    joined.physical_block_size = std::max(joined.physical_block_size, block);
    if (joined.io_min < joined.physical_block_size) joined.io_min = 0;
    if (joined.io_opt < joined.physical_block_size) joined.io_opt = 0;
    joined.discard_granularity = round_up(joined.discard_granularity, block);
    joined.discard_max = round_down(joined.discard_max, block);
    joined.write_zeroes_max = round_down(joined.write_zeroes_max, block);
    return joined;
}

Result<std::shared_ptr<Backend>> join(std::string_view name, Backends members,
                                      const Geometry& geometry,
                                      std::unique_ptr<const Layout> layout) {
    if (auto valid = check_geometry(geometry); !valid) {
        return std::unexpected(invalid_members("open " + std::string(name), valid.error().detail));
    }
    return std::make_shared<JoinedBackend>(name, std::move(members), geometry, std::move(layout));
}

}  // namespace ashlar::layers
