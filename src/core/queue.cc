// How a queue opens, leaves and ends; what it does with a request is in queue_requests.cc.
#include "core/queue.h"

#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/assert.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

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
        Tag& tag = tags_.emplace_back(
            *this, request_scope_,
            static_cast<std::uint16_t>(config_.first_tag + slot * config_.tag_step),
            static_cast<std::uint16_t>(first_registered_ + slot), memory);
        const bool names_buffer =
            config_.data_path == DataPath::copy || config_.data_path == DataPath::get_data;
        const auto address =
            names_buffer ? reinterpret_cast<std::uintptr_t>(tag.buffer()) : std::uintptr_t{0};
        tag.command = {
            .file = file_,
            .opcode = 0,
            .registration = config_.data_path == DataPath::zero_copy
                                ? kernel::encode_auto_buf_reg(tag.registered_index(), true)
                                : 0,
            .command = kernel::make_io_cmd(config_.index, tag.index(), 0, address)};
    }
}

bool Queue::resize(std::uint64_t size) noexcept {
    size_ = size;
    return std::ranges::any_of(tags_, [this, size](const Tag& tag) {
        // With the kernel, and not settled: it is about to copy a write's data to where that lies.
        const bool serves = tag.state() == TagState::with_kernel ? !commands_->is_settled(tag)
                                                                 : tag.state() != TagState::home;
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
    with_.reactor.post([this, lives = std::weak_ptr(lives_)] {
        if (!lives.expired()) settled();
    });
}

// A request that was cut short so that the queue can leave is not answered either.
bool Queue::holds_back(IoResult result) const noexcept {
    return leaving_ == Leaving::holding && request_scope_.cancelled() &&
           result.error() == ECANCELED;
}

void Queue::commit_while_leaving(Tag& tag, IoResult result) noexcept {
    if (holds_back(result)) return hold(tag);
    give_back(tag, result);
    left_round_.reset();  // this commit is not with the kernel yet
    continue_leaving();
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

}  // namespace ashlar
