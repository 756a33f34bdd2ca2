#include "sim/storm_client.h"

#include <algorithm>
#include <utility>

#include "kernel/abi.h"

namespace ashlar::sim {

namespace abi = kernel::abi;

namespace {

constexpr unsigned kTries = 10;  // of a read at the end

}  // namespace

Client::Client(SimKernel& kernel, SimDriver& driver, Reference& reference, const Plan& plan,
               const Capabilities& capabilities)
    : kernel_(kernel),
      driver_(driver),
      reference_(reference),
      plan_(plan),
      capabilities_(capabilities),
      left_(plan.requests) {}

void Client::begin() {
    const unsigned streams = std::min(plan_.at_once, left_);
    for (unsigned i = 0; i < streams; ++i) ask_next(kernel_.random.below(50'000));
}

// One of the streams goes on.
void Client::ask_next(Instant delay) {
    if (left_ == 0) {
        if (idle() && on_idle) on_idle();
        return;
    }
    --left_;
    ++about_to_ask_;
    kernel_.timeline.after(delay, [this] { ask(); });
}

void Client::draw(BlockRequest& request, Reference::Blocks& blocks) {
    Random& random = kernel_.random;
    const std::uint64_t most = plan_.io_max / plan_.block;
    // Many are small, and at the start of the disk, so that they meet.
    blocks.count = random.chance(500) ? 1 : random.between(1, std::min<std::uint64_t>(most, 16));
    const std::uint64_t reach = random.chance(500) ? 8 : plan_.blocks - blocks.count + 1;
    blocks.first = std::min(random.below(reach), plan_.blocks - blocks.count);
    const std::uint64_t kind = random.below(100);
    if (kind < 40) {
        request.op = abi::io_op_read;
    } else if (kind < 78) {
        request.op = abi::io_op_write;
        request.fua = capabilities_.flush && random.chance(150);
    } else if (kind < 88) {
        request.op = capabilities_.flush ? abi::io_op_flush : abi::io_op_read;
    } else if (kind < 93) {
        request.op = capabilities_.discard ? abi::io_op_discard : abi::io_op_write;
    } else if (kind < 99) {
        request.op = capabilities_.write_zeroes ? abi::io_op_write_zeroes : abi::io_op_write;
        request.no_unmap = request.op == abi::io_op_write_zeroes && random.chance(300);
    } else {
        request.op = abi::io_op_zone_open;  // not of this disk
    }
    if (request.op == abi::io_op_flush) blocks = {};
}

void Client::ask() {
    --about_to_ask_;
    auto request = std::make_shared<BlockRequest>();
    Reference::Blocks blocks;
    draw(*request, blocks);
    request->queue = static_cast<std::uint16_t>(kernel_.random.below(plan_.queues));
    submit(request, blocks, [this](int error) {
        const bool slow = error != 0 || kernel_.random.chance(100);
        ask_next(kernel_.random.below(slow ? 800'000 : 20'000) + 100);
    });
}

void Client::submit(const std::shared_ptr<BlockRequest>& request, Reference::Blocks blocks,
                    std::function<void(int)> then) {
    const std::uint64_t id = ++last_;
    request->id = id;
    request->offset = blocks.first * plan_.block;
    request->length = blocks.count * plan_.block;
    Flight flight{.request = request, .blocks = blocks};
    using Kind = Reference::Kind;
    switch (request->op) {
        case abi::io_op_write:
            flight.number = reference_.begin(blocks, Kind::write, request->fua);
            break;
        case abi::io_op_write_zeroes:
            flight.number = reference_.begin(blocks, Kind::zeroes, false);
            break;
        case abi::io_op_discard:
            flight.number = reference_.begin(blocks, Kind::discard, false);
            break;
        default: flight.begun = reference_.now(); break;
    }
    if (request->op == abi::io_op_read || request->op == abi::io_op_write) {
        request->data.resize(request->length);
    }
    for (std::uint64_t i = 0; i < blocks.count && request->op == abi::io_op_write; ++i) {
        fill_block(std::span(request->data).subspan(i * plan_.block, plan_.block), flight.number,
                   blocks.first + i);
    }
    request->done = [this, id, then = std::move(then)](int error) {
        done(id, error);
        then(error);
    };
    in_flight_.emplace(id, std::move(flight));
    driver_.submit(request);
}

void Client::done(std::uint64_t id, int error) {
    const auto found = in_flight_.find(id);
    if (found == in_flight_.end()) {
        return kernel_.journal.finding("client: a request is answered twice");
    }
    const Flight flight = std::move(found->second);
    in_flight_.erase(found);
    errors_ += error != 0 ? 1 : 0;
    if (error != 0 && !flight.answered && on_lost) on_lost(*flight.request, error);
    if (flight.number != 0) {
        using Outcome = Reference::Outcome;
        const Outcome failed = flight.answered ? Outcome::failed : Outcome::unknown;
        return reference_.end(flight.number, flight.blocks, error == 0 ? Outcome::done : failed);
    }
    if (error != 0) return;
    if (flight.request->op == abi::io_op_flush) return reference_.flushed(flight.begun);
    if (flight.request->op != abi::io_op_read) {
        return kernel_.journal.finding("client: an operation of no disk succeeds");
    }
    const std::string wrong = reference_.check(flight.begun, flight.blocks, flight.request->data);
    if (!wrong.empty()) {
        kernel_.journal.finding("client: request " + std::to_string(id) + ": " + wrong);
    }
}

void Client::answered(const BlockRequest& request) {
    const auto found = in_flight_.find(request.id);
    if (found != in_flight_.end()) found->second.answered = true;
}

std::vector<std::uint64_t> Client::changes_in_flight() const {
    std::vector<std::uint64_t> numbers;
    for (const auto& [id, flight] : in_flight_) {
        if (flight.number != 0) numbers.push_back(flight.number);
    }
    return numbers;
}

void Client::verify(std::function<void()> then) { read_on(0, kTries, std::move(then)); }

// A read that fails is asked again: what it would have seen is looked at, too.
void Client::read_on(std::uint64_t block, unsigned tries, std::function<void()> then) {
    if (block >= plan_.blocks) return then();
    auto request = std::make_shared<BlockRequest>();
    request->op = abi::io_op_read;
    const std::uint64_t most = plan_.io_max / plan_.block;
    const Reference::Blocks blocks{block, std::min(most, plan_.blocks - block)};
    submit(request, blocks, [this, block, most, tries, then = std::move(then)](int error) {
        const bool again = error != 0 && tries > 1;
        again ? read_on(block, tries - 1, then) : read_on(block + most, kTries, then);
    });
}

}  // namespace ashlar::sim
