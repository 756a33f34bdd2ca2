// The block layer's part of the model: tags, waiting, requeueing, completion.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "sim/sim_driver.h"

namespace ashlar::sim {

void SimDriver::submit(std::shared_ptr<BlockRequest> request) {
    request->queue = static_cast<std::uint16_t>(request->queue % queues_.size());
    if (!disk_ || dying_) {
        kernel_.journal.note("refused", request->id);
        kernel_.timeline.after(1, [request] { request->done(EIO); });
        return;
    }
    ++outstanding_;
    kernel_.journal.note("request", request->id, request->op, request->offset, request->length);
    const std::uint16_t queue = request->queue;
    queues_[queue].waiting.push_back(std::move(request));
    begin_waiting(queue);
}

// Those that wait get the tags that are free, in an order of their own.
void SimDriver::begin_waiting(std::uint16_t queue) {
    Queue& at = queues_[queue];
    while (!at.waiting.empty()) {
        const auto free = static_cast<std::size_t>(std::ranges::count(at.by_tag, nullptr));
        if (free == 0) return;
        std::size_t skip = kernel_.random.below(free);
        std::size_t tag = 0;
        while (at.by_tag[tag] != nullptr || skip-- > 0) ++tag;
        auto request = std::move(at.waiting.front());
        at.waiting.pop_front();
        request->tag = static_cast<std::uint16_t>(tag);
        at.by_tag[tag] = request;
        queue_request(request);
    }
}

void SimDriver::queue_request(const std::shared_ptr<BlockRequest>& request) {
    if (quiesced_) {
        held_back_.push_back(request);
        return;
    }
    Queue& queue = queues_[request->queue];
    if (queue.fail_io) return complete(request, EREMOTEIO);
    if (keeps_requests() && queue.force_abort) return complete(request, EIO);
    request->started = true;
    if (queue.canceling) return abort_request(request);
    if (is_batch()) {
        queue.arrived.push_back(request->tag);
        return use_fetch(request->queue);
    }
    Io& io = queue.ios[request->tag];
    if (!io.active || io.on_its_way)
        finding("a tag without a command", request->queue, request->tag);
    io.on_its_way = true;
    io.delivery = ++last_delivery_;
    ++on_their_way_;
    kernel_.timeline.after(soon(),
                           [this, at = request->queue, tag = request->tag, number = io.delivery] {
                               const Io& then = queues_[at].ios[tag];
                               if (then.on_its_way && then.delivery == number) dispatch(at, tag);
                           });
}

void SimDriver::abort_request(const std::shared_ptr<BlockRequest>& request) {
    if (keeps_requests()) return requeue(request);
    complete(request, EIO);
}

void SimDriver::requeue(const std::shared_ptr<BlockRequest>& request) {
    kernel_.journal.note("requeued", request->id);
    request->started = false;
    requeued_.push_back(request);
    look_again();
}

void SimDriver::kick_requeued() {
    for (auto& request : std::exchange(requeued_, {})) queue_request(request);
}

void SimDriver::complete(std::shared_ptr<BlockRequest> request, int error) {
    const std::uint16_t at = request->queue;
    Queue& queue = queues_[at];
    if (queue.by_tag[request->tag] != request) {
        return finding("a request that is done is completed", at, request->tag);
    }
    kernel_.journal.note("completed", request->id, static_cast<unsigned>(error));
    queue.by_tag[request->tag] = nullptr;
    request->started = false;
    --outstanding_;
    kernel_.timeline.after(1, [request = std::move(request), error] { request->done(error); });
    kernel_.timeline.after(1, [this, at] { begin_waiting(at); });
    look_again();
}

bool SimDriver::any_started() const noexcept {
    for (const Queue& queue : queues_) {
        for (const auto& request : queue.by_tag) {
            if (request != nullptr && request->started) return true;
        }
    }
    return false;
}

}  // namespace ashlar::sim
