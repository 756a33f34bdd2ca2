// Operations on simulated files, and sleeps: when they are carried out, and what they answer.
#include <sys/uio.h>
#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "sim/sim_reactor.h"

namespace ashlar::sim {

namespace {

using Kind = Submission::Kind;

bool is_write(Kind kind) { return kind == Kind::write || kind == Kind::writev; }

Instant nanoseconds_of(const Submission::Time& time) {
    return static_cast<Instant>(time.seconds) * 1'000'000'000 +
           static_cast<Instant>(time.nanoseconds);
}

}  // namespace

SimReactor::Flight* SimReactor::find(std::uint64_t id) noexcept {
    const auto at = std::ranges::find(flights_, id, &Flight::id);
    return at == flights_.end() ? nullptr : &*at;
}

void SimReactor::start(const Entry& entry) {
    Flight flight{
        .id = ++last_flight_, .submission = *entry.submission, .operation = entry.operation};
    const Submission& submission = flight.submission;
    const Instant bound = nanoseconds_of(submission.time);
    if (submission.kind == Kind::sleep) {
        flights_.push_back(flight);
        kernel_.timeline.after(bound, [this, id = flight.id] { land(id, -ETIME, true); });
        return;
    }
    if (!submission.buffer.is_memory()) {
        const std::uint16_t index = submission.buffer.index();
        if (index >= slots_.size() || slots_[index].buffer == nullptr) {
            finding("an operation uses a buffer that is not registered");
            return post(*flight.operation, -EFAULT, 0);
        }
        flight.registered = slots_[index].buffer;
    }
    if (submission.followers != 0) finding("followers are not simulated");
    draw_fault(flight);
    const Instant carried_out = kernel_.random.below(faults_.latency) + 500;
    const Instant ended = carried_out + kernel_.random.below(faults_.latency / 4 + 1);
    const bool stuck = flight.stuck;
    const std::uint64_t id = flight.id;
    flights_.push_back(std::move(flight));
    if (bound != 0 && (stuck || bound < ended)) {
        kernel_.timeline.after(bound, [this, id] {
            if (find(id) == nullptr || dead_) return;
            kernel_.errors.give(ETIMEDOUT);
            land(id, -ECANCELED, true);
        });
    }
    if (stuck) return;
    kernel_.timeline.after(carried_out, [this, id] {
        if (Flight* found = find(id); found != nullptr) carry_out(*found);
    });
    kernel_.timeline.after(ended, [this, id] { land(id, 0, false); });
}

void SimReactor::draw_fault(Flight& flight) {
    Random& random = kernel_.random;
    if (kernel_.files_hang || random.chance(faults_.stuck)) {
        flight.stuck = true;
    } else if (random.chance(faults_.errors)) {
        flight.failure = is_write(flight.submission.kind) && random.chance(300) ? -ENOSPC : -EIO;
    } else if (random.chance(faults_.lost_answers)) {
        // A sync that answers EIO may have synced.
        flight.failure = -EIO;
        flight.lost = true;
    } else if (random.chance(faults_.again)) {
        flight.failure = random.chance(500) ? -EAGAIN : -EINTR;
    } else if (random.chance(faults_.shorts)) {
        const std::uint32_t length = flight.submission.buffer.length();
        const std::uint32_t unit = kernel_.files.block(flight.submission.fd);
        // Never less than a block, or the storage itself would tear.
        if (length > unit) {
            flight.most = static_cast<std::uint32_t>(random.between(1, (length - 1) / unit)) * unit;
        }
    }
}

void SimReactor::carry_out(Flight& flight) {
    if (flight.done || finished_) return;
    flight.done = true;
    flight.result = flight.failure;
    if (flight.failure != 0 && !flight.lost) return;
    const std::int32_t result = execute(flight);
    if (flight.failure == 0) flight.result = result;
}

std::int32_t SimReactor::execute(Flight& flight) {
    const Submission& what = flight.submission;
    std::span<std::byte> bytes;
    if (flight.registered != nullptr) {
        std::vector<std::byte>& data = flight.registered->request->data;
        if (what.buffer.address() + what.buffer.length() > data.size()) {
            finding("an operation past the end of a registered buffer");
            return -EFAULT;
        }
        bytes = std::span(data).subspan(what.buffer.address(), what.buffer.length());
    } else if (what.kind == Kind::read || what.kind == Kind::write) {
        bytes = what.buffer.bytes();
    }
    if (flight.most != 0) bytes = bytes.first(flight.most);
    constexpr std::uint32_t dsync = 2;  // RWF_DSYNC
    switch (what.kind) {
        case Kind::read: return kernel_.files.read(what.fd, bytes, what.offset);
        case Kind::write:
            return kernel_.files.write(what.fd, bytes, what.offset, (what.flags & dsync) != 0);
        case Kind::readv:
        case Kind::writev: return move_vectors(what);
        case Kind::fsync:
        case Kind::fdatasync: return kernel_.files.sync(what.fd);
        case Kind::fallocate: return kernel_.files.zero(what.fd, what.offset, what.length);
        default: break;
    }
    finding("an operation that is not simulated");
    return -EOPNOTSUPP;
}

std::int32_t SimReactor::move_vectors(const Submission& what) {
    std::int32_t moved = 0;
    for (std::uint64_t i = 0; i < what.length; ++i) {
        const iovec& vector = static_cast<const iovec*>(what.address)[i];
        const std::span bytes(static_cast<std::byte*>(vector.iov_base), vector.iov_len);
        const std::uint64_t offset = what.offset + static_cast<std::uint64_t>(moved);
        const std::int32_t result = what.kind == Kind::readv
                                        ? kernel_.files.read(what.fd, bytes, offset)
                                        : kernel_.files.write(what.fd, bytes, offset, false);
        if (result < 0) return moved > 0 ? moved : result;
        moved += result;
    }
    return moved;
}

// It ends; with `result`, whether or not it was carried out, if it is to be dropped.
void SimReactor::land(std::uint64_t id, std::int32_t result, bool drop) {
    Flight* found = find(id);
    if (found == nullptr || dead_) return;
    if (!drop) {
        carry_out(*found);
        result = found->result;
        if (result < 0) kernel_.errors.give(-result);
    }
    // The buffer is let go of when the operation is off the list.
    const Flight flight = std::move(*found);
    std::erase_if(flights_, [id](const Flight& one) { return one.id == id; });
    post(*flight.operation, result, 0);
}

// Asked to end early: it does, or it is too late.
void SimReactor::take_off(const Entry& entry) {
    const auto found = std::ranges::find(flights_, entry.operation, &Flight::operation);
    if (found == flights_.end()) return;
    const bool early = found->stuck || found->submission.kind == Kind::sleep ||
                       (!found->done && kernel_.random.chance(700));
    if (early) land(found->id, -ECANCELED, true);
}

}  // namespace ashlar::sim
