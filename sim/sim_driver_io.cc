// A command for a tag: fetch, commit, need-get-data, register, unregister; and user copy.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernel/codec.h"
#include "sim/sim_driver.h"

namespace ashlar::sim {

namespace abi = kernel::abi;

namespace {

std::byte* memory_at(std::uint64_t address) {
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
}

// What the block layer makes of a server's errno.
int block_error(int error) {
    switch (error) {
        case EINVAL:
        case EOPNOTSUPP:
        case ETIMEDOUT:
        case ENOSPC:
        case ENOLINK:
        case EREMOTEIO:
        case EBADE:
        case ENODATA:
        case EILSEQ:
        case ENOMEM:
        case EBUSY:
        case ENODEV:
        case EOVERFLOW:
        case EREMCHG:
        case EINPROGRESS:
        case EAGAIN: return error;
        default: return EIO;
    }
}

}  // namespace

// ---- To the server -----------------------------------------------------------------------------

void SimDriver::fill_descriptor(const BlockRequest& request, std::uint64_t address) {
    abi::IoDesc& to = *descriptor(request.queue, request.tag);
    to.op_flags =
        request.op | (request.fua ? abi::io_f_fua : 0) | (request.no_unmap ? abi::io_f_nounmap : 0);
    to.nr_sectors = static_cast<std::uint32_t>(request.length / 512);
    to.start_sector = request.op == abi::io_op_flush ? ~std::uint64_t{0} : request.offset / 512;
    to.addr = address;
}

// The data of a write goes to the server's memory.
bool SimDriver::copy_in(Io& io, const BlockRequest& request) {
    if (!maps() || !request.has_data()) return true;
    if (request.op == abi::io_op_write) {
        std::memcpy(memory_at(io.address), request.data.data(), request.data.size());
    } else if (!has(abi::f_need_get_data)) {
        // Not the driver's doing: a server must not rely on what it finds there.
        std::memset(memory_at(io.address), 0xee, request.data.size());
    }
    return true;
}

void SimDriver::dispatch(std::uint16_t queue, std::uint16_t tag) {
    Io& io = queues_[queue].ios[tag];
    io.on_its_way = false;
    --on_their_way_;
    look_again();
    const std::shared_ptr<BlockRequest> request = queues_[queue].by_tag[tag];
    if (request == nullptr || io.task == nullptr || io.operation == nullptr) {
        return finding("a request without a command", queue, tag);
    }
    fill_descriptor(*request, io.address);
    // Its thread is ending.
    if (io.task->closed()) {
        kernel_.journal.note("too late", request->id);
        io.operation = nullptr;
        return abort_request(request);
    }
    if (has(abi::f_need_get_data) && maps() && request->op == abi::io_op_write) {
        io.get_data = true;
        io.active = false;
        io.owned = true;
        io.request = request;
        kernel_.journal.note("announced", request->id, queue, tag);
        if (on_delivery) on_delivery(*request);
        return io.task->post(*std::exchange(io.operation, nullptr), abi::io_res_need_get_data, 0);
    }
    static_cast<void>(copy_in(io, *request));
    Ring& ring = *io.task;
    auto_register(io, ring, request);
    Operation* operation = std::exchange(io.operation, nullptr);
    deliver(io, request);
    ring.post(*operation, abi::io_res_ok, 0);
}

// What is on its way there arrives, before what is said to the thread from now on.
void SimDriver::deliver_all(Ring& ring) {
    for (std::uint16_t at = 0; at < options_.queues; ++at) {
        Queue& queue = queues_[at];
        for (std::uint16_t tag = 0; tag < options_.depth; ++tag) {
            const Io& io = queue.ios[tag];
            if (io.on_its_way && io.task == &ring) dispatch(at, tag);
        }
        if (queue.dispatching && queue.fetches.front().ring == &ring) dispatch_batch(at);
    }
}

void SimDriver::deliver(Io& io, const std::shared_ptr<BlockRequest>& request) {
    kernel_.journal.note("delivered", request->id, request->queue, request->tag);
    io.active = false;
    io.owned = true;
    io.request = request;
    io.injected = 0;
    if (on_delivery) on_delivery(*request);
}

int SimDriver::register_request(Io& io, Ring& ring, std::uint64_t index,
                                const std::shared_ptr<BlockRequest>& request) {
    ++io.registered;
    auto buffer = std::make_shared<RegisteredBuffer>(request, [this, &io, request] {
        --io.registered;
        finish_answered(io, request);
        look_again();
    });
    return ring.register_buffer(index, std::move(buffer));
}

void SimDriver::auto_register(Io& io, Ring& ring, const std::shared_ptr<BlockRequest>& request) {
    if (!has(abi::f_auto_buf_reg) || !request->has_data()) return;
    int result = kernel_.random.chance(options_.no_registrations) ? -ENOMEM : 0;
    if (result == 0) result = register_request(io, ring, io.auto_index, request);
    if (result == 0) {
        io.auto_registered = true;
        return;
    }
    if (result == -EINVAL) finding("no such buffer slot", request->queue, request->tag);
    if (!io.fallback) finding("registration without fallback", request->queue, request->tag);
    kernel_.journal.note("not registered", request->id);
    descriptor(request->queue, request->tag)->op_flags |= abi::io_f_need_reg_buf;
}

// ---- From the server ---------------------------------------------------------------------------

std::optional<std::int32_t> SimDriver::inject() {
    if (kernel_.random.chance(options_.retries)) {
        const bool again = kernel_.random.chance(500);
        return again ? -EAGAIN : -EINTR;
    }
    if (kernel_.random.chance(options_.refusals)) return -ENOMEM;
    return std::nullopt;
}

int SimDriver::check_opcode(std::uint32_t opcode, std::uint16_t queue, std::uint16_t tag) {
    const bool encoded = (opcode >> 8 & 0xff) == 'u';
    const bool known = (options_.offered & abi::f_cmd_ioctl_encode) != 0;
    if (encoded == known) return 0;
    return broken("opcode of another kernel", queue, tag, EOPNOTSUPP);
}

std::int32_t SimDriver::command(Ring& ring, std::uint32_t opcode, const abi::IoCmd& command,
                                std::uint64_t registration, Operation* operation) {
    const std::uint16_t queue = command.q_id;
    const std::uint16_t tag = command.tag;
    if (const int code = check_opcode(opcode, queue, tag); code != 0) return code;
    if (operation != nullptr) {
        if (const auto result = inject()) {
            kernel_.journal.note("not taken", queue, tag, static_cast<unsigned>(-*result));
            if (opcode == abi::u_io_register_io_buf && *result == -ENOMEM) {
                queues_[queue].ios[tag].injected = ENOMEM;
            }
            return *result;
        }
    }
    const std::uint32_t number = abi::opcode_number(opcode);
    if (opcode == abi::u_io_unregister_io_buf) {
        if (!has(abi::f_support_zero_copy)) return broken("no zero copy", queue, tag, EINVAL);
        const int result = ring.unregister_buffer(command.addr);
        return result == 0 ? 0 : broken("unregisters what is not registered", queue, tag, EINVAL);
    }
    if (queue >= queues_.size() || tag >= options_.depth) {
        return broken("no such tag", queue, tag, EINVAL);
    }
    Io& io = queues_[queue].ios[tag];
    if (is_batch() && opcode != abi::u_io_register_io_buf) {
        return broken("a command for one tag with batch commands", queue, tag, EOPNOTSUPP);
    }
    // Only the registration of a buffer may go without an answer.
    if (operation == nullptr && opcode != abi::u_io_register_io_buf) {
        return broken("a command whose answer nobody awaits", queue, tag, EINVAL);
    }
    if (number == abi::io_fetch_req) return fetch(ring, io, command, registration, operation);
    if (!is_batch() && io.task != &ring) {
        return broken("from a thread that has not fetched it", queue, tag, EINVAL);
    }
    if (!io.owned) return broken("a tag that the server does not own", queue, tag, EBUSY);
    if (io.get_data != (number == abi::io_need_get_data)) {
        return broken("need-get-data out of order", queue, tag, EINVAL);
    }
    if (opcode == abi::u_io_register_io_buf) return take_buffer(ring, io, command);
    if (number == abi::io_need_get_data) return take_data(ring, io, command, operation);
    if (number != abi::io_commit_and_fetch_req) return broken("opcode", queue, tag, EINVAL);
    return commit(ring, io, command, registration, operation);
}

// An address is needed, or must be 0; and no two tags share memory.
int SimDriver::check_address(std::uint16_t queue, std::uint16_t tag, std::uint64_t address,
                             bool needed) {
    if (!maps()) {
        return address == 0 ? 0 : broken("an address that must be 0", queue, tag, EINVAL);
    }
    if (address == 0) return needed ? broken("no address", queue, tag, EINVAL) : 0;
    if (has(abi::f_need_get_data) || queues_[queue].ios[tag].address == address) return 0;
    for (const Queue& other : queues_) {
        for (const Io& io : other.ios) {
            if (&io == &queues_[queue].ios[tag] || io.address == 0) continue;
            // A thread that has ended uses no memory any more.
            if (io.memory_of->closed()) continue;
            if (address < io.address + options_.io_max && io.address < address + options_.io_max) {
                return broken("two tags share memory", queue, tag, EINVAL);
            }
        }
    }
    return 0;
}

int SimDriver::check_registration(std::uint64_t registration, std::uint16_t queue,
                                  std::uint16_t tag) {
    if (!has(abi::f_auto_buf_reg)) return 0;
    const abi::AutoBufReg reg = kernel::decode_auto_buf_reg(registration);
    if (reg.reserved0 == 0 && reg.reserved1 == 0 && (reg.flags & ~abi::auto_buf_reg_f_mask) == 0) {
        return 0;
    }
    return broken("automatic registration with unknown flags", queue, tag, EINVAL);
}

std::int32_t SimDriver::fetch(Ring& ring, Io& io, const abi::IoCmd& command,
                              std::uint64_t registration, Operation* operation) {
    const std::uint16_t queue = command.q_id;
    const std::uint16_t tag = command.tag;
    const bool needed = !has(abi::f_need_get_data);
    if (const int code = check_address(queue, tag, command.addr, needed); code != 0) return code;
    if (const int code = check_registration(registration, queue, tag); code != 0) return code;
    if (stopping_) return abi::io_res_abort;
    if (ready()) return broken("fetches although all is fetched", queue, tag, EBUSY);
    if (io.active) return broken("fetches twice", queue, tag, EINVAL);
    if (!has(abi::f_per_io_daemon)) {
        for (const Io& other : queues_[queue].ios) {
            if (other.task == nullptr || other.task == &ring) continue;
            return broken("two threads for one queue", queue, tag, EINVAL);
        }
    }
    const abi::AutoBufReg reg = kernel::decode_auto_buf_reg(registration);
    io.active = true;
    io.task = &ring;
    io.memory_of = &ring;
    io.operation = operation;
    io.address = command.addr;
    io.auto_index = reg.index;
    io.fallback = (reg.flags & abi::auto_buf_reg_fallback) != 0;
    mark_ready(queue, io);
    return kQueued;
}

void SimDriver::mark_ready(std::uint16_t at, Io& io) {
    Queue& queue = queues_[at];
    io.cancelled = false;
    if (++queue.ready < options_.depth) return;
    ++queues_ready_;
    if (!canceling_) queue.canceling = false;
    queue.fail_io = false;
    queue.force_abort = false;
    look_again();
}

std::int32_t SimDriver::take_data(Ring& ring, Io& io, const abi::IoCmd& command,
                                  Operation* operation) {
    if (command.addr == 0) return broken("no address", command.q_id, command.tag, EINVAL);
    io.get_data = false;
    io.address = command.addr;
    descriptor(command.q_id, command.tag)->addr = command.addr;
    static_cast<void>(copy_in(io, *io.request));
    kernel_.journal.note("delivered", io.request->id, command.q_id, command.tag);
    ring.post(*operation, abi::io_res_ok, 0);
    return kQueued;
}

std::int32_t SimDriver::take_buffer(Ring& ring, Io& io, const abi::IoCmd& command) {
    if (!has(abi::f_support_zero_copy)) {
        return broken("no zero copy", command.q_id, command.tag, EINVAL);
    }
    if (io.request == nullptr || !io.request->has_data()) {
        return broken("registers no data", command.q_id, command.tag, EINVAL);
    }
    const int result = register_request(io, ring, command.addr, io.request);
    if (result != 0) finding("registers where something is", command.q_id, command.tag);
    return result;
}

std::int32_t SimDriver::commit(Ring& ring, Io& io, const abi::IoCmd& command,
                               std::uint64_t registration, Operation* operation) {
    const std::uint16_t queue = command.q_id;
    const std::uint16_t tag = command.tag;
    const bool needed = !has(abi::f_need_get_data) || io.request->op == abi::io_op_read;
    if (const int code = check_address(queue, tag, command.addr, needed); code != 0) return code;
    if (const int code = check_registration(registration, queue, tag); code != 0) return code;
    io.operation = operation;
    io.address = maps() ? command.addr : 0;
    if (std::exchange(io.auto_registered, false)) {
        static_cast<void>(ring.unregister_buffer(io.auto_index));
    }
    const abi::AutoBufReg reg = kernel::decode_auto_buf_reg(registration);
    io.auto_index = reg.index;
    io.fallback = (reg.flags & abi::auto_buf_reg_fallback) != 0;
    answer(io, command.result);
    return kQueued;
}

// The server is done with a request: the tag is the driver's again.
void SimDriver::answer(Io& io, std::int32_t result) {
    const std::shared_ptr<BlockRequest> request = std::exchange(io.request, nullptr);
    kernel_.journal.note("answered", request->id, static_cast<std::uint64_t>(result),
                         request->queue, request->tag);
    io.active = true;
    io.owned = false;
    io.answered = true;
    io.result = result;
    const bool data = request->has_data();
    if (result >= 0 && data && static_cast<std::uint64_t>(result) != request->length) {
        finding("a short answer", request->queue, request->tag);
    }
    if (on_answer) on_answer(*request, result, io.injected);
    if (result > 0 && maps() && request->op == abi::io_op_read) {
        std::memcpy(request->data.data(), memory_at(io.address),
                    std::min<std::size_t>(request->data.size(), static_cast<std::size_t>(result)));
    }
    finish_answered(io, request);
}

// Done when no buffer of it is in use any more.
void SimDriver::finish_answered(Io& io, const std::shared_ptr<BlockRequest>& request) {
    if (!io.answered || io.registered != 0) return;
    io.answered = false;
    complete(request, io.result < 0 ? block_error(-io.result) : 0);
}

// ---- User copy ---------------------------------------------------------------------------------

ssize_t SimDriver::user_copy(std::byte* memory, std::size_t length, std::uint64_t position,
                             bool to_server) {
    const kernel::UserCopyPosition at = kernel::decode_user_copy_offset(position);
    const auto refuse = [](int code) {
        errno = code;
        return ssize_t{-1};
    };
    if (!has(abi::f_user_copy)) {
        finding("user copy that was not asked for", at.queue, at.tag);
        return refuse(EACCES);
    }
    if (state_ == abi::DevState::dead) return refuse(EACCES);
    if (at.queue >= queues_.size() || at.tag >= options_.depth) {
        finding("user copy of no tag", at.queue, at.tag);
        return refuse(EINVAL);
    }
    Io& io = queues_[at.queue].ios[at.tag];
    if (!io.owned || (!is_batch() && io.task != kernel_.running)) {
        finding("user copy of a tag that the server does not own", at.queue, at.tag);
        return refuse(EINVAL);
    }
    BlockRequest& request = *io.request;
    const std::uint8_t wanted = to_server ? abi::io_op_write : abi::io_op_read;
    if (request.op != wanted || at.byte > request.data.size()) {
        finding("user copy in the wrong direction, or past the end", at.queue, at.tag);
        return refuse(EACCES);
    }
    std::size_t count = std::min<std::size_t>(length, request.data.size() - at.byte);
    if (count > 0 && kernel_.random.chance(options_.copies)) {
        const std::uint64_t what = kernel_.random.below(8);
        kernel_.journal.note("user copy fails", request.id, what);
        if (what < 3) return refuse(EINTR);
        if (what == 3) {
            io.injected = EFAULT;
            return refuse(EFAULT);
        }
        // Storage that is copied to in place would tear otherwise.
        count = (kernel_.random.below(count) / options_.block + 1) * options_.block;
    }
    std::byte* const data = request.data.data() + at.byte;
    std::memcpy(to_server ? memory : data, to_server ? data : memory, count);
    return static_cast<ssize_t>(count);
}

}  // namespace ashlar::sim
