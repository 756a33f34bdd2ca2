// A command for many tags: prepare, commit, and the fetch that delivers again and again.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernel/codec.h"
#include "sim/sim_driver.h"

namespace ashlar::sim {

namespace abi = kernel::abi;

namespace {

constexpr std::size_t kTagsAtOnce = 128;
constexpr std::uint32_t kHasBuffer = 1U << 0;  // of a completion, as reactor.h has them
constexpr std::uint32_t kMore = 1U << 1;

}  // namespace

int SimDriver::check_batch(const abi::BatchIo& command) {
    const auto refuse = [&](const char* what, int code) {
        return broken(what, command.q_id, command.nr_elem, code);
    };
    if (!is_batch()) return refuse("batch commands that were not asked for", EOPNOTSUPP);
    if (command.q_id >= queues_.size()) return refuse("no such queue", EINVAL);
    if (command.nr_elem > options_.depth) return refuse("more elements than tags", E2BIG);
    if (command.nr_elem == 0) return refuse("no elements", EINVAL);
    if ((command.flags & abi::batch_f_has_zone_lba) != 0) return refuse("not zoned", EINVAL);
    if ((command.flags & abi::batch_f_has_buf_addr) != 0 && !maps()) {
        return refuse("addresses where none belong", EINVAL);
    }
    if ((command.flags & abi::batch_f_auto_buf_reg_fallback) != 0 && !has(abi::f_auto_buf_reg)) {
        return refuse("fallback without automatic registration", EINVAL);
    }
    if (!kernel::batch_flags_valid(command.flags)) return refuse("flags", EINVAL);
    if (command.elem_bytes != kernel::batch_element_bytes(command.flags)) {
        return refuse("size of elements", EINVAL);
    }
    return 0;
}

std::int32_t SimDriver::batch_command(Ring& ring, std::uint32_t opcode, const abi::BatchIo& command,
                                      const std::byte* elements) {
    if (const int code = check_batch(command); code != 0) return code;
    if (const auto result = inject()) {
        kernel_.journal.note("not taken", command.q_id, static_cast<unsigned>(-*result));
        return *result;
    }
    if (opcode == abi::u_io_prep_io_cmds) return prepare(ring, command, elements);
    if (opcode == abi::u_io_commit_io_cmds) return commit_all(ring, command, elements);
    return broken("opcode", command.q_id, 0, EINVAL);
}

// All or nothing.
std::int32_t SimDriver::prepare(Ring& ring, const abi::BatchIo& command,
                                const std::byte* elements) {
    Queue& queue = queues_[command.q_id];
    if (stopping_) return abi::io_res_abort;
    for (std::size_t i = 0; i < command.nr_elem; ++i) {
        const auto element = kernel::decode_batch_element(
            command.flags, {elements + i * command.elem_bytes, command.elem_bytes});
        if (!element || element->tag >= options_.depth) {
            return broken("no such tag", command.q_id, element ? element->tag : 0, EINVAL);
        }
        Io& io = queue.ios[element->tag];
        if (ready()) return broken("prepares when all is", command.q_id, element->tag, EBUSY);
        if (io.active) return broken("prepares twice", command.q_id, element->tag, EINVAL);
        const std::uint64_t address = maps() ? element->buf_addr : 0;
        if (const int code = check_address(command.q_id, element->tag, address, true); code != 0) {
            return code;
        }
        io.active = true;
        io.memory_of = &ring;
        io.address = address;
        io.auto_index = element->buf_index;
        io.fallback = (command.flags & abi::batch_f_auto_buf_reg_fallback) != 0;
        mark_ready(command.q_id, io);
    }
    return 0;
}

// Answers the bytes that it took.
std::int32_t SimDriver::commit_all(Ring& ring, const abi::BatchIo& command,
                                   const std::byte* elements) {
    Queue& queue = queues_[command.q_id];
    std::size_t count = command.nr_elem;
    if (count > 1 && kernel_.random.chance(options_.parts)) {
        count = kernel_.random.between(1, count - 1);
        kernel_.journal.note("in part", command.q_id, count, command.nr_elem);
    }
    for (std::size_t i = 0; i < count; ++i) {
        const auto element = kernel::decode_batch_element(
            command.flags, {elements + i * command.elem_bytes, command.elem_bytes});
        if (!element || element->tag >= options_.depth) {
            return broken("no such tag", command.q_id, element ? element->tag : 0, EINVAL);
        }
        Io& io = queue.ios[element->tag];
        if (!io.owned) {
            return broken("commits what it does not own", command.q_id, element->tag, EBUSY);
        }
        const std::uint64_t address = maps() ? element->buf_addr : 0;
        if (const int code = check_address(command.q_id, element->tag, address, true); code != 0) {
            return code;
        }
        io.address = address;
        if (std::exchange(io.auto_registered, false)) {
            static_cast<void>(ring.unregister_buffer(io.auto_index));
        }
        io.auto_index = element->buf_index;
        answer(io, element->result);
    }
    return static_cast<std::int32_t>(count * command.elem_bytes);
}

std::int32_t SimDriver::batch_fetch(Ring& ring, std::uint32_t opcode, const abi::BatchIo& command,
                                    std::uint16_t group, Operation& operation) {
    if (opcode != abi::u_io_fetch_io_cmds || !is_batch() || command.q_id >= queues_.size() ||
        command.elem_bytes != sizeof(std::uint16_t) || command.flags != 0) {
        return broken("batch fetch", command.q_id, 0, EINVAL);
    }
    if (kernel_.random.chance(options_.retries)) return -EAGAIN;
    Queue& queue = queues_[command.q_id];
    if (queue.force_abort || queue.canceling) return abi::io_res_abort;
    queue.fetches.push_back({&ring, group, &operation});
    use_fetch(command.q_id);
    return kQueued;
}

// Soon the first fetch delivers what has arrived.
void SimDriver::use_fetch(std::uint16_t at) {
    Queue& queue = queues_[at];
    if (queue.dispatching || queue.fetches.empty() || queue.arrived.empty()) return;
    queue.dispatching = true;
    queue.delivery = ++last_delivery_;
    kernel_.timeline.after(soon(), [this, at, number = queue.delivery] {
        const Queue& then = queues_[at];
        if (then.dispatching && then.delivery == number) dispatch_batch(at);
    });
}

void SimDriver::dispatch_batch(std::uint16_t at) {
    Queue& queue = queues_[at];
    queue.dispatching = false;
    look_again();
    const Fetch fetch = queue.fetches.front();
    // Its thread is ending: what has arrived stays.
    if (fetch.ring->closed()) return end_fetch(queue, 0, abi::io_res_abort);
    while (!queue.arrived.empty()) {
        const auto picked = fetch.ring->pick_buffer(fetch.group);
        if (!picked) return end_fetch(queue, 0, -ENOBUFS);
        std::size_t most = std::min(kTagsAtOnce, picked->bytes.size() / sizeof(std::uint16_t));
        most = std::min(most, queue.arrived.size());
        // Requests that come while it looks.
        const std::size_t count = kernel_.random.between(1, most);
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint16_t tag = queue.arrived.front();
            queue.arrived.pop_front();
            Io& io = queue.ios[tag];
            const std::shared_ptr<BlockRequest> request = queue.by_tag[tag];
            fill_descriptor(*request, io.address);
            static_cast<void>(copy_in(io, *request));
            auto_register(io, *fetch.ring, request);
            deliver(io, request);
            std::memcpy(picked->bytes.data() + i * sizeof(tag), &tag, sizeof(tag));
        }
        fetch.ring->post(*fetch.operation, static_cast<std::int32_t>(count * sizeof(std::uint16_t)),
                         kHasBuffer | kMore | std::uint32_t{picked->buffer} << 16);
    }
}

void SimDriver::end_fetch(Queue& queue, std::size_t place, std::int32_t result) {
    const Fetch fetch = queue.fetches[place];
    queue.fetches.erase(queue.fetches.begin() + static_cast<std::ptrdiff_t>(place));
    kernel_.journal.note("fetch ends", static_cast<unsigned>(-result));
    fetch.ring->post(*fetch.operation, result, 0);
}

}  // namespace ashlar::sim
