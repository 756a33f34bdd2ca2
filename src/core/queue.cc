#include "core/queue.h"

#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <string>
#include <utility>

#include "base/assert.h"
#include "base/units.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

// Coroutine frames of one request; more than a stripe over eight backends needs.
constexpr std::size_t kArenaBytes = 4096;

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
    return Mapping(memory, size);
}

// The kernel reads the result of data transfers only; for the others 0 stands for success, which
// also keeps a discard of 2 GiB or more from looking like an errno.
std::int32_t kernel_result(const Request& request, IoResult result) noexcept {
    if (!result.ok()) return -result.error();
    if (request.op != Op::read && request.op != Op::write) return 0;
    return static_cast<std::int32_t>(request.length);
}

}  // namespace

void LiveCounters::count(const Request& request, bool failed) noexcept {
    switch (request.op) {
        case Op::read:
            add(reads, 1);
            add(read_bytes, request.length);
            break;
        case Op::write:
            add(writes, 1);
            add(write_bytes, request.length);
            break;
        case Op::flush: add(flushes, 1); break;
        case Op::discard: add(discards, 1); break;
        case Op::write_zeroes: add(write_zeroes, 1); break;
        default: add(others, 1); break;
    }
    if (failed) [[unlikely]]
        add(errors, 1);
}

void LiveCounters::reset() noexcept {
    for (auto* counter : {&reads, &writes, &flushes, &discards, &write_zeroes, &others, &read_bytes,
                          &write_bytes, &errors}) {
        counter->store(0, std::memory_order_relaxed);
    }
}

QueueCounters LiveCounters::snapshot() const noexcept {
    const auto get = [](const std::atomic<std::uint64_t>& counter) {
        return counter.load(std::memory_order_relaxed);
    };
    return {.reads = get(reads),
            .writes = get(writes),
            .flushes = get(flushes),
            .discards = get(discards),
            .write_zeroes = get(write_zeroes),
            .others = get(others),
            .read_bytes = get(read_bytes),
            .write_bytes = get(write_bytes),
            .errors = get(errors)};
}

void Tag::complete(std::int32_t result, std::uint32_t) noexcept { queue_.fetched(*this, result); }

Queue::Queue(const QueueConfig& config, std::shared_ptr<CharDevice> device, Reactor& reactor,
             std::unique_ptr<Session> session, LiveCounters& counters,
             std::shared_ptr<QueueOwner> owner) noexcept
    : config_(config),
      device_(std::move(device)),
      reactor_(&reactor),
      session_(std::move(session)),
      counters_(counters),
      owner_(std::move(owner)) {
    owner_->queue_opened();
}

Queue::~Queue() {
    if (reactor_ != nullptr) {
        for (const Tag& tag : tags_) ASHLAR_ASSERT(tag.state() != TagState::with_kernel);
        if (file_registered_) reactor_->unregister_file(file_);
    }
    tags_.clear();
    session_.reset();
    descriptors_.reset();
    device_.reset();
    owner_->queue_closed();
}

Result<std::unique_ptr<Queue>> Queue::open(const QueueConfig& config,
                                           std::shared_ptr<CharDevice> device, Reactor& reactor,
                                           std::unique_ptr<Session> session, LiveCounters& counters,
                                           std::shared_ptr<QueueOwner> owner) {
    std::unique_ptr<Queue> queue(new Queue(config, std::move(device), reactor, std::move(session),
                                           counters, std::move(owner)));
    if (auto mapped = queue->map_memory(); !mapped) return std::unexpected(mapped.error());
    auto file = reactor.register_file(queue->device_->fd.get());
    if (!file) {
        return std::unexpected(queue_error(config, file.error().operation, file.error().code));
    }
    queue->file_ = *file;
    queue->file_registered_ = true;
    queue->make_tags();
    return queue;
}

Result<void> Queue::map_memory() {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = kernel::descriptor_map_bytes(config_.depth, page);
    const auto offset = kernel::descriptor_map_offset(config_.index, page);
    void* descriptors = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
                             device_->fd.get(), static_cast<off_t>(offset));
    if (descriptors == MAP_FAILED) {
        return std::unexpected(queue_error(config_, "map request descriptors", errno));
    }
    descriptors_ = Mapping(descriptors, bytes);
    // A child that had it mapped would keep the character device from closing.
    static_cast<void>(madvise(descriptors, bytes, MADV_DONTFORK));

    auto buffers = map_private(config_, std::size_t{config_.depth} * config_.io_max, "I/O buffers");
    if (!buffers) return std::unexpected(buffers.error());
    buffers_ = std::move(*buffers);
    auto arenas = map_private(config_, std::size_t{config_.depth} * kArenaBytes, "request frames");
    if (!arenas) return std::unexpected(arenas.error());
    arenas_ = std::move(*arenas);
    return {};
}

void Queue::make_tags() {
    for (std::uint16_t index = 0; index < config_.depth; ++index) {
        tags_.emplace_back(*this, index, buffers_.data() + std::size_t{index} * config_.io_max,
                           arenas_.data() + std::size_t{index} * kArenaBytes, kArenaBytes);
    }
}

void Queue::fetch_all() noexcept {
    tags_home_ = 0;
    for (Tag& tag : tags_) {
        tag.opcode = config_.ioctl_commands ? abi::u_io_fetch_req : abi::io_fetch_req;
        tag.command = kernel::make_io_cmd(config_.index, tag.index(), 0,
                                          reinterpret_cast<std::uintptr_t>(tag.buffer()));
        submit(tag);
    }
}

void Queue::submit(Tag& tag) noexcept {
    tag.submitted();
    reactor_->io_command(file_, tag.opcode, tag.command, tag);
}

void Queue::fetched(Tag& tag, std::int32_t result) noexcept {
    tag.returned();
    if (result == abi::io_res_ok) [[likely]] {
        serve(tag);
    } else {
        not_fetched(tag, result);
    }
}

void Queue::not_fetched(Tag& tag, std::int32_t result) noexcept {
    // The kernel did not take the command and asks for it once more.
    if (result == -EAGAIN || result == -EINTR) return submit(tag);
    tag.retired();
    ++tags_home_;
    if (result != abi::io_res_abort && !failed_) {
        failed_ = true;
        const int code = result < 0 ? -result : EPROTO;
        owner_->queue_failed(config_.index, queue_error(config_, "fetch requests", code));
    }
    if (home()) owner_->queue_home(config_.index);
}

void Queue::serve(Tag& tag) noexcept {
    const auto& descriptor =
        kernel::descriptor(descriptors_.data(), tag.index(), sizeof(abi::IoDesc));
    int error = kernel::decode_request(descriptor, config_.index, tag.index(), tag.request);
    if (error != 0) [[unlikely]] {
        tag.request = {.op = Op::unknown, .queue = config_.index, .tag = tag.index()};
    } else {
        error = refusal(tag.request);
    }
    if (error != 0) [[unlikely]]
        return commit(tag, IoResult::from_errno(error));
    const bool has_data = tag.request.op == Op::read || tag.request.op == Op::write;
    tag.request.data = has_data ? tag.buffer() : nullptr;
    // Without a volatile cache every write is durable when it completes.
    const Capabilities& can = config_.capabilities;
    tag.flush_after = tag.request.fua && can.flush && !can.fua;
    start(tag, tag.request);
}

// The errno for what was not advertised, or does not fit; 0 when the session may have it.
int Queue::refusal(const Request& request) const noexcept {
    const Capabilities& can = config_.capabilities;
    const bool writes = request.op != Op::read && request.op != Op::flush;
    if (can.read_only && writes) return EROFS;
    switch (request.op) {
        case Op::read:
        case Op::write: return request.length > config_.io_max ? EINVAL : 0;
        case Op::flush: return can.flush ? 0 : EOPNOTSUPP;
        case Op::discard: return can.discard ? 0 : EOPNOTSUPP;
        case Op::write_zeroes: return can.write_zeroes ? 0 : EOPNOTSUPP;
        default: return EOPNOTSUPP;
    }
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
            done.task = Task<>(IoResult{});
            done.queue().finish(done, result);
        },
        &tag);
}

void Queue::finish(Tag& tag, IoResult result) noexcept {
    if (tag.flush_after && result.ok()) [[unlikely]] {
        // FUA for a backend that has none: the write is in, now make it durable.
        tag.flush_after = false;
        tag.flush = {.op = Op::flush, .queue = tag.request.queue, .tag = tag.request.tag};
        return start(tag, tag.flush);
    }
    commit(tag, result);
}

void Queue::commit(Tag& tag, IoResult result) noexcept {
    counters_.count(tag.request, !result.ok());
    tag.opcode =
        config_.ioctl_commands ? abi::u_io_commit_and_fetch_req : abi::io_commit_and_fetch_req;
    tag.command.result = kernel_result(tag.request, result);
    submit(tag);
}

void Queue::fail(int code) noexcept {
    if (failed_) return;
    failed_ = true;
    owner_->queue_failed(config_.index, queue_error(config_, "wait for requests", code));
}

}  // namespace ashlar
