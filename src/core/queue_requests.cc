// One request's way: from the kernel's completion by the session to the commit.
#include <sys/sdt.h>
#include <cerrno>
#include <span>
#include <utility>

#include "core/queue.h"
#include "core/request_rules.h"
#include "core/user_copy.h"
#include "kernel/codec.h"

namespace ashlar {

namespace abi = kernel::abi;

void Tag::complete(std::int32_t result, std::uint32_t) noexcept { queue_.completed(*this, result); }

void Queue::completed(Tag& tag, std::int32_t result) noexcept {
    if (tag.state() == TagState::registering) [[unlikely]]
        return registered(tag, result);
    if (result == abi::io_res_ok) [[likely]]
        return arrived(tag);
    commands_->completed(tag, result);
}

// From here to the session and back to the commit it is one function for the compiler.
[[gnu::flatten]] void Queue::arrived(Tag& tag) noexcept {
    tag.returned();
    if (leaving_ == Leaving::holding) [[unlikely]]
        return hold(tag);
    const abi::IoDesc& wanted = descriptor(tag);
    if (const int error = decode(tag, wanted); error != 0) [[unlikely]]
        return refuse_at_once(tag, error);
    note_begun(tag);
    if (config_.metadata.size != 0) [[unlikely]]
        give_metadata(tag, wanted);
    tag.flush_after = false;
    if (tag.request.fua) [[unlikely]]
        settle_fua(tag);
    const bool can_start =
        is_transfer(tag.request) ? give_buffer(tag, wanted) : give_other_buffer(tag, wanted);
    if (can_start) [[likely]]
        start(tag, tag.request);
}

bool Queue::give_other_buffer(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    return !has_data(tag.request) || give_buffer(tag, descriptor);
}

void Queue::arrived_without_data(Tag& tag) noexcept {
    tag.returned();
    if (leaving_ == Leaving::holding) return hold(tag);
    // Also for a write that is refused: the driver takes no other answer now.
    tag.data = tag.buffer();
    if (decode(tag, descriptor(tag)) == 0) place(tag);
    tag.command.command.addr = reinterpret_cast<std::uintptr_t>(tag.data);
    commands_->get_data(tag);
}

const abi::IoDesc& Queue::descriptor(const Tag& tag) const noexcept {
    return kernel::descriptor(descriptors_.data(), tag.index(), sizeof(abi::IoDesc));
}

// Answers the errno of a request that is refused.
int Queue::decode(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    const int error = kernel::decode_request(descriptor, config_.index, tag.index(), tag.request);
    if (error != 0) [[unlikely]] {
        tag.request = {.op = Op::unknown, .queue = config_.index, .tag = tag.index()};
        return error;
    }
    return refusal(tag.request, config_, size_);
}

void Queue::refuse_at_once(Tag& tag, int error) noexcept {
    note_begun(tag);
    refuse(tag, error);
}

void Queue::refuse(Tag& tag, int error) noexcept { commit(tag, IoResult::from_errno(error)); }

// Without a volatile cache every write is durable when it completes.
void Queue::settle_fua(Tag& tag) noexcept {
    const Capabilities& can = config_.capabilities;
    tag.flush_after = can.flush && !can.fua;
    tag.request.fua = can.fua;
}

// Answers whether the session can start; else the request goes its way without.
bool Queue::give_buffer(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    const std::uint32_t flags = kernel::kernel_flags(descriptor);
    if ((flags & abi::io_f_shmem_zc) != 0) [[unlikely]]
        return give_shared(tag, descriptor);
    if (is_user_copied(tag.request)) return give_memory(tag);
    switch (config_.data_path) {
        case DataPath::zero_copy:
            if ((flags & abi::io_f_need_reg_buf) != 0) [[unlikely]]
                break;
            give_registered(tag);
            return true;
        case DataPath::zero_copy_manual: break;
        default: return give_memory(tag);
    }
    register_buffer(tag);
    return false;
}

void Queue::give_registered(Tag& tag) noexcept {
    tag.request.buffer = Buffer::registered(tag.registered_index(), 0,
                                            static_cast<std::uint32_t>(tag.request.length));
}

// None where the request has none, whatever the tag's last one had.
void Queue::give_metadata(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    const bool has_any = (kernel::kernel_flags(descriptor) & abi::io_f_integrity) != 0;
    const std::uint64_t length = has_any ? config_.metadata.bytes_for(tag.request.length) : 0;
    tag.request.metadata = Buffer::memory(tag.metadata(), static_cast<std::uint32_t>(length));
}

// A write whose data comes to memory by our own reading.
bool Queue::is_user_copied(const Request& request) const noexcept {
    if (!brings_data(request)) return false;
    return config_.data_path == DataPath::user_copy ||
           (config_.zero_copy() && request.length <= config_.copied_write_max);
}

// Where the bytes are or go: in the session's own memory, if it names a place, else in the tag's.
void Queue::place(Tag& tag) noexcept {
    tag.data = tag.buffer();
    if (config_.access != DataAccess::holds || config_.data_path == DataPath::copy) return;
    if (std::byte* const own = session_->locate(tag.request); own != nullptr) tag.data = own;
}

bool Queue::give_memory(Tag& tag) noexcept {
    place(tag);
    tag.in_shared_memory = false;
    tag.request.buffer = Buffer::memory(tag.data, static_cast<std::uint32_t>(tag.request.length));
    if (is_user_copied(tag.request)) {
        if (const int error = copy_in(tag); error != 0) [[unlikely]] {
            refuse(tag, error);
            return false;
        }
    }
    if (tag.data != tag.buffer()) {
        finish_in_place(tag);
        return false;
    }
    return true;
}

// The data is where it belongs, but not durable: the session has not seen it.
void Queue::finish_in_place(Tag& tag) noexcept {
    tag.flush_after |= tag.request.fua && config_.capabilities.flush;
    finish(tag, IoResult{});
}

namespace {

// The data, then the metadata if there is any. Answers 0 or an errno.
template <class Copy>
int copy_parts(int device, const Tag& tag, Copy copy) noexcept {
    const Request& request = tag.request;
    const int error = copy(device, request, Part::data, std::span(tag.data, request.length));
    if (error != 0 || request.metadata.length() == 0) [[likely]]
        return error;
    return copy(device, request, Part::metadata, request.metadata.bytes());
}

}  // namespace

int Queue::copy_in(Tag& tag) noexcept {
    return copy_parts(with_.device->fd.get(), tag, copy_from_request);
}

int Queue::copy_out(const Tag& tag) noexcept {
    return copy_parts(with_.device->fd.get(), tag, copy_to_request);
}

// Null if that is outside of what is registered.
std::byte* Queue::shared_place(const abi::IoDesc& descriptor, std::uint64_t length) const noexcept {
    const kernel::ShmemAddress address = kernel::decode_shmem_address(descriptor.addr);
    if (address.index >= config_.shared.size()) return nullptr;
    const std::span<std::byte> memory = config_.shared[address.index];
    if (length > memory.size() || address.offset > memory.size() - length) return nullptr;
    return memory.data() + address.offset;
}

// The data lies in memory that client and server share: it stays there.
bool Queue::give_shared(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    std::byte* const data = shared_place(descriptor, tag.request.length);
    if (data == nullptr) {
        refuse(tag, EFAULT);
        return false;
    }
    tag.in_shared_memory = true;
    tag.request.buffer = Buffer::memory(data, static_cast<std::uint32_t>(tag.request.length));
    return true;
}

IoCommand Queue::buffer_command(const Tag& tag, std::uint32_t opcode) const noexcept {
    return {.file = file_,
            .opcode = opcode,
            .registration = 0,
            .command = kernel::make_io_cmd(config_.index, tag.index(), 0, tag.registered_index())};
}

void Queue::register_buffer(Tag& tag) noexcept {
    tag.registration_begun();
    with_.reactor.io_command(buffer_command(tag, abi::u_io_register_io_buf), tag);
}

void Queue::registered(Tag& tag, std::int32_t result) noexcept {
    tag.registration_ended();
    if (result == -EAGAIN || result == -EINTR) return register_buffer(tag);
    if (result < 0) return refuse(tag, -result);
    tag.registered = true;
    give_registered(tag);
    start(tag, tag.request);
}

void Queue::start(Tag& tag, const Request& request) noexcept {
    IoResult result;
    {
        Task<> task = session_->serve(tag.io(), request);
        if (!task.done()) [[unlikely]]
            return finish_later(tag, std::move(task));
        result = task.result();
    }
    finish(tag, result);
}

void Queue::finish_later(Tag& tag, Task<>&& task) noexcept {
    tag.task = std::move(task);
    tag.task.on_done(
        [](void* context) noexcept {
            Tag& done = *static_cast<Tag*>(context);
            const IoResult result = done.task.result();
            done.task = Task<>();
            done.queue().finish(done, result);
        },
        &tag);
}

void Queue::finish(Tag& tag, IoResult result) noexcept {
    if (tag.flushing) [[unlikely]] {
        tag.flushing = false;
        if (result.ok()) result = tag.written;
    } else if (is_false(tag.request, config_, result)) [[unlikely]] {
        result = IoResult(std::errc::io_error);
    }
    if (tag.flush_after && result.ok()) [[unlikely]]
        return flush_after(tag, result);
    if (tag.request.op == Op::report_zones && result.ok()) [[unlikely]]
        kernel::encode_zone_report(tag.request.bytes(), result.count());
    if (config_.data_path == DataPath::user_copy && takes_data(tag.request) && result.ok() &&
        !tag.in_shared_memory) {
        const int error = copy_out(tag);
        if (error != 0) result = IoResult::from_errno(error);
    }
    commit(tag, result);
}

// FUA for a backend that has none: the write is in, now make it durable.
void Queue::flush_after(Tag& tag, IoResult written) noexcept {
    tag.flush_after = false;
    tag.flushing = true;
    tag.written = written;
    tag.flush = {.op = Op::flush, .queue = tag.request.queue, .tag = tag.request.tag};
    start(tag, tag.flush);
}

// The probes are an instruction that does nothing until someone looks: docs/operations.md.
void Queue::note_begun(Tag& tag) noexcept {
    DTRACE_PROBE6(ashlar, request_begin, config_.device, config_.index, tag.index(),
                  static_cast<unsigned>(tag.request.op), tag.request.offset, tag.request.length);
    with_.metrics.begun();
    if (LiveTimes* const times = with_.metrics.times(); times != nullptr) {
        tag.begun = times->begin(with_.reactor.rounds());
    }
}

void Queue::note_answered(Tag& tag, IoResult result) noexcept {
    DTRACE_PROBE6(ashlar, request_end, config_.device, config_.index, tag.index(),
                  static_cast<unsigned>(tag.request.op), tag.request.length, result.error());
    with_.metrics.answered(tag.request, !result.ok());
    LiveTimes* const times = with_.metrics.times();
    if (times == nullptr) return;
    times->answered(tag.request, tag.begun);
    if (with_.observer != nullptr) [[unlikely]]
        with_.observer->answered(config_.device, tag.request, result, times->took(tag.begun));
}

void Queue::commit(Tag& tag, IoResult result) noexcept {
    if (leaving_ != Leaving::no) [[unlikely]]
        return commit_while_leaving(tag, result);
    give_back(tag, result);
}

void Queue::name_address(Tag& tag, IoResult result) noexcept {
    std::uint64_t& address = tag.command.command.addr;
    if (config_.zone_size != 0) {
        const bool is_append = tag.request.op == Op::zone_append && result.ok();
        address = is_append ? result.count() >> kernel::sector_shift : 0;
    } else {
        // What is read is copied from there.
        const bool is_read = tag.request.op == Op::read && result.ok();
        address = reinterpret_cast<std::uintptr_t>(is_read ? tag.data : tag.buffer());
    }
}

void Queue::give_back(Tag& tag, IoResult result) noexcept {
    note_answered(tag, result);
    if (tag.registered) [[unlikely]] {
        // Submitted before the commit, and so carried out before it.
        tag.registered = false;
        with_.reactor.silent_io_command(buffer_command(tag, abi::u_io_unregister_io_buf));
    }
    if (address_varies_) [[unlikely]]
        name_address(tag, result);
    commands_->commit(tag, kernel_result(tag.request, result));
}

}  // namespace ashlar
