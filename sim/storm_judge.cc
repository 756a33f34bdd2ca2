// The judge: what the sessions were asked and answered, what the driver was told, and what the
// users of the block device see.
#include <algorithm>
#include <cerrno>

#include "kernel/abi.h"
#include "sim/storm_world.h"

namespace ashlar::sim {

namespace abi = kernel::abi;

namespace {

Op op_of(const BlockRequest& request) {
    switch (request.op) {
        case abi::io_op_read: return Op::read;
        case abi::io_op_write: return Op::write;
        case abi::io_op_flush: return Op::flush;
        case abi::io_op_discard: return Op::discard;
        case abi::io_op_write_zeroes: return Op::write_zeroes;
        default: return Op::unknown;
    }
}

}  // namespace

// ---- Sessions ----------------------------------------------------------------------------------

void World::session_opened() { ++sessions_; }

void World::session_ended(bool closed) {
    --sessions_;
    if (!closed) kernel_.journal.finding("a session ends that was not closed, or more than once");
}

void World::finding(const std::string& what, const BlockRequest& request) {
    kernel_.journal.finding("server: request " + std::to_string(request.id) + " (op " +
                            std::to_string(request.op) + ", queue " +
                            std::to_string(request.queue) + ", tag " + std::to_string(request.tag) +
                            "): " + what);
}

World::Seen* World::seen(const Request& request) {
    Seen& found = seen_[request.queue][request.tag];
    if (found.request != nullptr) return &found;
    kernel_.journal.finding("a session is asked for a tag without a request");
    return nullptr;
}

void World::delivered(const BlockRequest& request) {
    seen_[request.queue][request.tag] = {.request = &request};
}

void World::located(const Request& request) {
    if (Seen* of = seen(request)) of->located = true;
}

void World::serving(const Request& request) {
    Seen* of = seen(request);
    if (of == nullptr) return;
    const BlockRequest& wanted = *of->request;
    kernel_.journal.note("serving", wanted.id);
    const bool durable = wanted.op == abi::io_op_write && wanted.fua;
    if (request.op == Op::flush && durable) {
        if (!of->located && (!of->served || !of->result.ok())) {
            finding("is flushed before it is written", wanted);
        }
        of->flushing = true;
        return;
    }
    if (of->serving) return finding("is served twice", wanted);
    of->serving = true;
    if (request.op != op_of(wanted))
        return finding("reaches the session as another operation", wanted);
    if (request.no_unmap != wanted.no_unmap) finding("reaches it with other no_unmap", wanted);
    if (request.offset != wanted.offset || request.length != wanted.length) {
        return finding("reaches the session as another range", wanted);
    }
    if (request.fua != (durable && capabilities_.fua)) finding("reaches it with other FUA", wanted);
    if (!wanted.has_data()) return;
    if (request.buffer.length() != wanted.length) return finding("has a short buffer", wanted);
    if (wanted.op != abi::io_op_write || !request.buffer.is_memory()) return;
    const auto bytes = request.bytes();
    if (!std::equal(bytes.begin(), bytes.end(), wanted.data.begin())) {
        finding("reaches the session with other data", wanted);
    }
}

void World::served(const Request& request, IoResult result) {
    Seen* of = seen(request);
    if (of == nullptr) return;
    kernel_.journal.note("served", of->request->id, static_cast<unsigned>(result.error()));
    if (result.ok()) {
        const auto is_final = [](int error) { return error != EAGAIN && error != EINTR; };
        if (std::ranges::any_of(of->causes, is_final)) {
            finding("succeeds although the disk underneath has failed", *of->request);
        }
    } else if (!has_cause(*of, request, result.error())) {
        finding("ends with errno " + std::to_string(result.error()) + " that nothing gave rise to",
                *of->request);
    }
    if (of->flushing) {
        of->flushed = true;
        of->flush_result = result;
    } else {
        of->served = true;
        of->result = result;
    }
}

// The disk of a stack has seen an error of the ring, which it may try once more.
void World::failed(const Request& request, int error) {
    Seen* of = seen(request);
    if (of == nullptr) return;
    of->causes.push_back(error);
    const bool given = error == ECANCELED ? cancelled_ : kernel_.errors.take(error);
    if (given) return;
    finding("its operation ends with errno " + std::to_string(error) + " that nobody gave it",
            *of->request);
}

bool World::has_cause(const Seen& of, const Request& request, int error) {
    if (error == ECANCELED) return cancelled_;
    if (std::ranges::find(of.causes, error) != of.causes.end()) return true;
    const bool several = request.op == Op::write && request.length > plan_.block;
    switch (plan_.storage) {
        case Storage::synchronous:
        case Storage::held: return kernel_.errors.take(error);
        case Storage::faulty: return error == ENOSPC || (error == EIO && several);  // torn
        default: return false;
    }
}

// ---- Answers -----------------------------------------------------------------------------------

// Whether requests may fail now that no server has answered.
bool World::may_lose() const {
    if (disk_gone_) return true;
    const Server& now = *servers_.back();
    const bool broken = now.killed() || now.failed() || given_up_;
    switch (plan_.recovery) {
        case Recovery::none:
        case Recovery::fail:
        case Recovery::queue: return broken;  // with what was in its hands
        case Recovery::reissue: return false;
    }
    return false;
}

// Whether a server may answer that it has cut a request short. One that leaves a device with
// reissue keeps such a request for the next server.
bool World::may_cut_short() const {
    return cancelled_ && (disk_gone_ || plan_.recovery != Recovery::reissue);
}

void World::lost(const BlockRequest& request, int error) {
    if (may_lose()) return;
    finding(
        "is lost: its user sees errno " + std::to_string(error) + ", which no server has answered",
        request);
}

void World::answered(const BlockRequest& request, std::int32_t result, int injected) {
    Seen& of = seen_[request.queue][request.tag];
    client_->answered(request);
    const std::string wrong = of.request != &request ? "was not delivered, or is answered twice"
                                                     : judge(of, request, result, injected);
    if (!wrong.empty()) finding(wrong, request);
    of = Seen{};
}

// What is wrong with an answer; empty if nothing.
std::string World::judge(const Seen& of, const BlockRequest& request, std::int32_t result,
                         int injected) const {
    const auto expect = [result](std::int64_t wanted) {
        if (result == wanted) return std::string();
        return "is answered " + std::to_string(result) + " instead of " + std::to_string(wanted);
    };
    if (injected != 0) return expect(-injected);
    if (result == -ECANCELED && !may_cut_short()) return "is cut short, and its user sees that";
    if (request.op == abi::io_op_zone_open) return expect(-EOPNOTSUPP);
    if (!of.serving && !of.located) return "is answered without having been served";
    if (of.serving && !of.served) return "is answered before the session has";
    const std::int64_t success = request.has_data() ? static_cast<std::int64_t>(request.length) : 0;
    if (of.serving && !of.result.ok()) return expect(-of.result.error());
    const bool emulated = request.fua && capabilities_.flush && !capabilities_.fua;
    const bool in_place = request.fua && capabilities_.flush && !of.serving;
    if (!emulated && !in_place) return expect(success);
    if (!of.flushed) return "is answered before it is durable";
    return expect(of.flush_result.ok() ? success : -of.flush_result.error());
}

}  // namespace ashlar::sim
