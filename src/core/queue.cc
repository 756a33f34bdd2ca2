#include "core/queue.h"

#include <sys/mman.h>
#include <sys/sdt.h>
#include <unistd.h>
#include <cerrno>
#include <string>
#include <utility>

#include "base/assert.h"
#include "core/request_rules.h"
#include "core/user_copy.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

// Coroutine frames of one request; more than a stripe over eight backends needs.
constexpr std::size_t kArenaBytes = 8192;

Error queue_error(const QueueConfig& config, std::string operation, int code) {
    return Error{.operation = "queue " + std::to_string(config.index) + ": " + std::move(operation),
                 .code = code,
                 .device = config.device};
}

Result<Mapping> map_private(const QueueConfig& config, std::size_t size, const char* what) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return std::unexpected(queue_error(config, std::string("map ") + what, errno));
    }
    // Children (see child_control.h) have no use for it.
    static_cast<void>(madvise(memory, size, MADV_DONTFORK));
    // A huge page would zero 2 MiB at the first touch of a buffer of which 4 KiB are used.
    static_cast<void>(madvise(memory, size, MADV_NOHUGEPAGE));
    // What is on the disk is nothing for a core file.
    static_cast<void>(madvise(memory, size, MADV_DONTDUMP));
    return Mapping(memory, size);
}

}  // namespace

// ---- Opening and closing -----------------------------------------------------------------------

Queue::Queue(const QueueConfig& config, QueueSurroundings surroundings) noexcept
    : config_(config),
      with_(std::move(surroundings)),
      request_scope_(with_.reactor, with_.offload),
      session_scope_(with_.reactor, with_.offload) {
    with_.owner->queue_opened();
}

Queue::~Queue() {
    // Also behind a thread that ended before its next round: the reactor lives on.
    with_.reactor.forget(*this);
    if (thread_ends_) return;
    for (const Tag& tag : tags_) {
        ASHLAR_ASSERT(tag.state() == TagState::home || tag.state() == TagState::serving);
    }
    let_go();
    commands_.reset();
    tags_.clear();
    session_.reset();
    with_.owner->queue_closed();
}

// The last that holds the character device tells the kernel that the server is gone.
void Queue::let_go() noexcept {
    if (session_) session_->close();
    if (file_registered_) with_.reactor.unregister_file(file_);
    if (buffers_reserved_) with_.reactor.release_buffers(first_registered_, config_.tags());
    descriptors_.reset();
    with_.device.reset();
}

Result<std::unique_ptr<Queue>> Queue::open(const QueueConfig& config,
                                           QueueSurroundings surroundings) {
    std::unique_ptr<Queue> queue(new Queue(config, std::move(surroundings)));
    if (auto opened = queue->open(); !opened) return std::unexpected(opened.error());
    return queue;
}

Result<void> Queue::open() {
    if (auto mapped = map_memory(); !mapped) return mapped;
    auto file = with_.reactor.register_file(with_.device->fd.get());
    if (!file) return std::unexpected(file.error());
    file_ = *file;
    file_registered_ = true;
    if (config_.zero_copy()) {
        auto first = with_.reactor.reserve_buffers(config_.tags());
        if (!first) return std::unexpected(first.error());
        first_registered_ = *first;
        buffers_reserved_ = true;
    }
    make_tags();
    auto commands = config_.commands == CommandStyle::batch ? open_batch_commands(*this)
                                                            : open_per_io_commands(*this);
    if (!commands) return std::unexpected(commands.error());
    commands_ = std::move(*commands);
    // Last: what it awaits from now on ends only when the queue comes home.
    auto session = with_.backend->open_session(session_io_);
    if (!session) return std::unexpected(session.error());
    session_ = std::move(*session);
    session_scope_.on_idle([](void* queue) noexcept { static_cast<Queue*>(queue)->session_idle(); },
                           this);
    return {};
}

Result<void> Queue::map_memory() {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = kernel::descriptor_map_bytes(config_.depth, page);
    const auto offset = kernel::descriptor_map_offset(config_.index, page);
    void* descriptors = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
                             with_.device->fd.get(), static_cast<off_t>(offset));
    if (descriptors == MAP_FAILED) {
        return std::unexpected(queue_error(config_, "map request descriptors", errno));
    }
    descriptors_ = Mapping(descriptors, bytes);
    // A child that had it mapped would keep the character device from closing.
    static_cast<void>(madvise(descriptors, bytes, MADV_DONTFORK));

    const std::size_t tags = config_.tags();
    if (const std::uint32_t each = config_.buffer_bytes(); each != 0) {
        auto buffers = map_private(config_, tags * each, "I/O buffers");
        if (!buffers) return std::unexpected(buffers.error());
        buffers_ = std::move(*buffers);
    }
    if (const std::uint32_t each = config_.metadata_bytes(); each != 0) {
        auto metadata = map_private(config_, tags * each, "metadata buffers");
        if (!metadata) return std::unexpected(metadata.error());
        metadata_ = std::move(*metadata);
    }
    auto arenas = map_private(config_, tags * kArenaBytes, "request frames");
    if (!arenas) return std::unexpected(arenas.error());
    arenas_ = std::move(*arenas);
    return {};
}

void Queue::make_tags() {
    const std::size_t bytes = config_.buffer_bytes();
    const std::size_t metadata = config_.metadata_bytes();
    for (std::size_t slot = 0; slot < config_.tags(); ++slot) {
        const Tag::Memory memory{
            .buffer = bytes == 0 ? nullptr : buffers_.data() + slot * bytes,
            .metadata = metadata == 0 ? nullptr : metadata_.data() + slot * metadata,
            .arena = arenas_.data() + slot * kArenaBytes,
            .arena_bytes = kArenaBytes,
        };
        tags_.emplace_back(*this, request_scope_,
                           static_cast<std::uint16_t>(config_.first_tag + slot * config_.tag_step),
                           static_cast<std::uint16_t>(first_registered_ + slot), memory);
    }
}

bool Queue::resize(std::uint64_t size) noexcept {
    size_ = size;
    return std::ranges::any_of(tags_, [size](const Tag& tag) {
        const bool serves =
            tag.state() == TagState::serving || tag.state() == TagState::registering;
        return serves && tag.request.offset + tag.request.length > size;
    });
}

void Queue::fetch_all() noexcept {
    tags_home_ = 0;
    commands_->fetch_all();
}

void Queue::retire(Tag& tag) noexcept {
    tag.retired();
    if (++tags_home_ < tags_.size()) return settled();
    session_scope_.cancel_all();
    if (session_scope_.idle()) session_idle();
}

void Queue::session_idle() noexcept {
    if (home()) return with_.owner->queue_home(with_.part);
    settled();
}

// ---- Leaving -----------------------------------------------------------------------------------

void Queue::leave(Leaving how) noexcept {
    leaving_ = how;
    settled();
}

// Neither we nor the driver would miss it if the ring ended now.
bool Queue::is_unused(const Tag& tag) const noexcept {
    switch (tag.state()) {
        case TagState::home: return true;
        case TagState::with_kernel: return commands_->is_settled(tag);
        default: return tag.held;
    }
}

// A commit is with the kernel only after the next system call, and may then be refused; so it is a
// whole round later that the owner is told.
void Queue::continue_leaving() noexcept {
    if (left_ || home()) return;
    for (const Tag& tag : tags_) {
        if (!is_unused(tag)) return left_round_.reset();
    }
    session_scope_.cancel_all();
    if (left_ || !session_scope_.idle()) return;
    if (!left_round_) left_round_ = with_.reactor.rounds();
    if (with_.reactor.rounds() < *left_round_ + 2) return with_.reactor.before_round(*this);
    left_ = true;
    with_.owner->queue_left(with_.part);
}

// Something has to end the wait that follows.
void Queue::before_round() noexcept {
    if (home()) return;
    with_.reactor.post([this] { settled(); });
}

// A request that was cut short so that the queue can leave is not answered either.
bool Queue::holds_back(IoResult result) const noexcept {
    return leaving_ == Leaving::holding && request_scope_.cancelled() &&
           result.error() == ECANCELED;
}

void Queue::hold(Tag& tag) noexcept {
    tag.held = true;
    settled();
}

void Queue::refused(const char* what, int code) noexcept {
    if (std::exchange(failed_, true)) return;
    with_.owner->queue_failed(with_.part, queue_error(config_, what, code));
}

void Queue::fail(int code) noexcept {
    if (!left_) refused("wait for requests", code);
}

void Queue::thread_ends() noexcept {
    thread_ends_ = true;
    request_scope_.thread_ends();
    session_scope_.thread_ends();
    let_go();
    with_.owner->queue_closed();
}

// ---- One request -------------------------------------------------------------------------------

void Tag::complete(std::int32_t result, std::uint32_t) noexcept { queue_.completed(*this, result); }

void Queue::completed(Tag& tag, std::int32_t result) noexcept {
    if (tag.state() == TagState::registering) return registered(tag, result);
    commands_->completed(tag, result);
}

void Queue::arrived(Tag& tag, bool wants_data) noexcept {
    tag.returned();
    if (leaving_ == Leaving::holding) [[unlikely]]
        return hold(tag);
    const int error = decode(tag);
    if (wants_data) {
        // Also for a write that is refused: the driver takes no other answer now.
        if (error == 0) place(tag);
        return commands_->get_data(tag);
    }
    note_begun(tag);
    if (error != 0) [[unlikely]]
        return commit(tag, IoResult::from_errno(error));
    serve(tag);
}

// Answers the errno of a request that is refused.
int Queue::decode(Tag& tag) noexcept {
    const auto& descriptor =
        kernel::descriptor(descriptors_.data(), tag.index(), sizeof(abi::IoDesc));
    int error = kernel::decode_request(descriptor, config_.index, tag.index(), tag.request);
    if (error != 0) [[unlikely]] {
        tag.request = {.op = Op::unknown, .queue = config_.index, .tag = tag.index()};
    } else {
        error = refusal(tag.request, config_, size_);
    }
    return error;
}

void Queue::serve(Tag& tag) noexcept {
    // Without a volatile cache every write is durable when it completes.
    const Capabilities& can = config_.capabilities;
    tag.flush_after = tag.request.fua && can.flush && !can.fua;
    tag.request.fua = tag.request.fua && can.fua;
    if (!has_data(tag.request)) return start(tag, tag.request);
    const auto& descriptor =
        kernel::descriptor(descriptors_.data(), tag.index(), sizeof(abi::IoDesc));
    const std::uint32_t flags = kernel::kernel_flags(descriptor);
    if ((flags & abi::io_f_integrity) != 0) [[unlikely]] {
        const std::uint64_t length = config_.metadata.bytes_for(tag.request.length);
        tag.request.metadata = Buffer::memory(tag.metadata(), static_cast<std::uint32_t>(length));
    }
    if ((flags & abi::io_f_shmem_zc) != 0) [[unlikely]]
        return serve_shared(tag, descriptor);
    if (!config_.zero_copy() || is_user_copied(tag.request)) return serve_in_memory(tag);
    const bool is_registered =
        config_.data_path == DataPath::zero_copy && (flags & abi::io_f_need_reg_buf) == 0;
    if (is_registered) [[likely]]
        return serve_registered(tag);
    register_buffer(tag);
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

void Queue::serve_in_memory(Tag& tag) noexcept {
    place(tag);
    if (is_user_copied(tag.request)) {
        if (const int error = copy_in(tag); error != 0) {
            return commit(tag, IoResult::from_errno(error));
        }
    }
    if (tag.data != tag.buffer()) {
        // It is where it belongs, but not durable: the session has not seen it.
        tag.flush_after |= tag.request.fua && config_.capabilities.flush;
        return finish(tag, IoResult{});
    }
    tag.request.buffer = Buffer::memory(tag.data, static_cast<std::uint32_t>(tag.request.length));
    start(tag, tag.request);
}

// Answers 0 or an errno.
int Queue::copy_in(Tag& tag) noexcept {
    const int device = with_.device->fd.get();
    const int error =
        copy_from_request(device, tag.request, Part::data, {tag.data, tag.request.length});
    if (error != 0 || tag.request.metadata.length() == 0) [[likely]]
        return error;
    return copy_from_request(device, tag.request, Part::metadata, tag.request.metadata.bytes());
}

int Queue::copy_out(const Tag& tag) noexcept {
    const int device = with_.device->fd.get();
    const int error =
        copy_to_request(device, tag.request, Part::data, {tag.data, tag.request.length});
    if (error != 0 || tag.request.metadata.length() == 0) [[likely]]
        return error;
    return copy_to_request(device, tag.request, Part::metadata, tag.request.metadata.bytes());
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
void Queue::serve_shared(Tag& tag, const abi::IoDesc& descriptor) noexcept {
    std::byte* const data = shared_place(descriptor, tag.request.length);
    if (data == nullptr) return commit(tag, IoResult(std::errc::bad_address));
    tag.in_shared_memory = true;
    tag.request.buffer = Buffer::memory(data, static_cast<std::uint32_t>(tag.request.length));
    start(tag, tag.request);
}

void Queue::serve_registered(Tag& tag) noexcept {
    tag.request.buffer = Buffer::registered(tag.registered_index(), 0,
                                            static_cast<std::uint32_t>(tag.request.length));
    start(tag, tag.request);
}

void Queue::register_buffer(Tag& tag) noexcept {
    tag.registration_begun();
    with_.reactor.io_command(
        file_, abi::u_io_register_io_buf,
        kernel::make_io_cmd(config_.index, tag.index(), 0, tag.registered_index()), 0, tag);
}

void Queue::registered(Tag& tag, std::int32_t result) noexcept {
    tag.registration_ended();
    if (result == -EAGAIN || result == -EINTR) return register_buffer(tag);
    if (result < 0) return commit(tag, IoResult::from_errno(-result));
    tag.registered = true;
    serve_registered(tag);
}

void Queue::start(Tag& tag, const Request& request) noexcept {
    Task<> task = session_->serve(tag.io(), request);
    if (task.done()) [[likely]] {
        return finish(tag, task.result());
    }
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
    if (std::exchange(tag.flushing, false)) [[unlikely]] {
        if (result.ok()) result = tag.written;
    } else if (is_false(tag.request, config_, result)) [[unlikely]] {
        result = IoResult(std::errc::io_error);
    }
    if (tag.flush_after && result.ok()) [[unlikely]] {
        // FUA for a backend that has none: the write is in, now make it durable.
        tag.flush_after = false;
        tag.flushing = true;
        tag.written = result;
        tag.flush = {.op = Op::flush, .queue = tag.request.queue, .tag = tag.request.tag};
        return start(tag, tag.flush);
    }
    if (tag.request.op == Op::report_zones && result.ok()) [[unlikely]]
        kernel::encode_zone_report(tag.request.bytes(), result.count());
    if (config_.data_path == DataPath::user_copy && takes_data(tag.request) && result.ok() &&
        !tag.in_shared_memory) {
        const int error = copy_out(tag);
        if (error != 0) result = IoResult::from_errno(error);
    }
    commit(tag, result);
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
    const RequestTimes took = times->answered(tag.request, tag.begun);
    if (with_.observer != nullptr) [[unlikely]]
        with_.observer->answered(config_.device, tag.request, result, took);
}

void Queue::commit(Tag& tag, IoResult result) noexcept {
    if (holds_back(result)) [[unlikely]]
        return hold(tag);
    note_answered(tag, result);
    if (std::exchange(tag.registered, false)) {
        // Submitted before the commit, and so carried out before it.
        with_.reactor.silent_io_command(
            file_, abi::u_io_unregister_io_buf,
            kernel::make_io_cmd(config_.index, tag.index(), 0, tag.registered_index()));
    }
    const bool is_append = tag.request.op == Op::zone_append && result.ok();
    tag.appended_at = is_append ? result.count() >> kernel::sector_shift : 0;
    commands_->commit(tag, kernel_result(tag.request, result));
    tag.data = tag.buffer();
    tag.in_shared_memory = false;
    settled();
}

std::uint64_t Queue::registration(const Tag& tag) const noexcept {
    return config_.data_path == DataPath::zero_copy
               ? kernel::encode_auto_buf_reg(tag.registered_index(), true)
               : 0;
}

std::uint64_t Queue::command_address(const Tag& tag) const noexcept {
    switch (config_.data_path) {
        case DataPath::copy: return reinterpret_cast<std::uintptr_t>(tag.buffer());
        // A read's data is copied from the address that its commit names.
        case DataPath::get_data: return reinterpret_cast<std::uintptr_t>(tag.data);
        default: return tag.appended_at;
    }
}

}  // namespace ashlar
