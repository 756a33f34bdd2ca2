// The reactor over a real io_uring. Only files of this name see liburing.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/fd.h"
#include "base/tick_clock.h"
#include "reactor/busy_poll.h"
#include "reactor/reactor.h"
#include "reactor/uring_buffer_group.h"
#include "reactor/uring_ring_end.h"
#include "reactor/uring_setup.h"
#include "reactor/uring_submission.h"

namespace ashlar {
namespace {

constexpr unsigned kEntriesMax = 32'768;
constexpr unsigned kBuffersMax = 16'384;
// Entries that must leave in one submission, at most: an operation and its followers or its bound.
constexpr unsigned kTogether = 1 + kFollowersMost;
// Of a multishot command, in SQE::uring_cmd_flags; newer than the header.
constexpr std::uint32_t kCommandMultishot = 1U << 1;
static_assert(completion::has_buffer == IORING_CQE_F_BUFFER);
static_assert(completion::more == IORING_CQE_F_MORE);
static_assert(completion::notification == IORING_CQE_F_NOTIF);
// After a round that the kernel refused for want of memory.
constexpr timespec kBackOff{.tv_sec = 0, .tv_nsec = 1'000'000};

class UringReactor final : public Reactor {
public:
    explicit UringReactor(const ReactorOptions& options)
        : file_flags_(options.register_files ? std::uint8_t{IOSQE_FIXED_FILE} : std::uint8_t{0}),
          polled_(options.polling.has_value()),
          busy_poll_(options.busy_poll),
          clock_(busy_poll_.wanted() ? TickClock::calibrated() : TickClock::monotonic()),
          free_files_(options.files),
          buffers_used_(std::min(options.buffers, kBuffersMax)) {
        for (unsigned i = 0; i < options.files; ++i) free_files_[i] = options.files - 1 - i;
    }

    ~UringReactor() override { close(); }

    // Called once, on the thread that will use the reactor.
    int open(const ReactorOptions& options) {
        int result = -EINVAL;
        for (const unsigned flags : setup_flags(options)) {
            io_uring_params params = setup_params(options, flags);
            result =
                io_uring_queue_init_params(std::max(options.entries, kTogether), &ring_, &params);
            if (result != -EINVAL) break;
        }
        if (result < 0) return -result;
        open_ = true;
        io_uring_ring_dontfork(&ring_);
        // Saves a lookup a system call, on this thread only; kernels before 5.18 do without.
        if (!options.control_commands) io_uring_register_ring_fd(&ring_);
        // One more than are given out: that of end_.
        result = io_uring_register_files_sparse(&ring_, options.files + 1);
        if (result < 0) return -result;
        if (const int code = end_.watch(ring_, options.files); code != 0) return code;
        wake_ = Fd(eventfd(0, EFD_CLOEXEC));
        if (!wake_.valid()) return errno;
        await_wake();
        return 0;
    }

    void thread_ends() noexcept override {
        // The index of a registered ring means something to this thread only.
        if (open_ && ring_.enter_ring_fd != ring_.ring_fd) io_uring_unregister_ring_fd(&ring_);
    }
    void close() noexcept override {
        if (open_) io_uring_queue_exit(&ring_);
        open_ = false;
    }
    bool await_end(std::chrono::milliseconds bound) noexcept override { return end_.await(bound); }

    Result<FileSlot> register_file(int fd) override {
        if (file_flags_ == 0) return static_cast<FileSlot>(fd);
        if (free_files_.empty()) {
            return std::unexpected(Error{.operation = "register file", .code = ENFILE});
        }
        const FileSlot slot = free_files_.back();
        const int result = io_uring_register_files_update(&ring_, slot, &fd, 1);
        if (result < 0) {
            return std::unexpected(Error{.operation = "register file", .code = -result});
        }
        free_files_.pop_back();
        return slot;
    }

    void unregister_file(FileSlot file) noexcept override {
        if (file_flags_ == 0) return;
        const int none = -1;
        io_uring_register_files_update(&ring_, file, &none, 1);
        free_files_.push_back(file);
    }

    Result<std::uint16_t> reserve_buffers(unsigned count) override {
        const auto refused = [](int code) {
            return std::unexpected(
                Error{.operation = "register buffers",
                      .code = code,
                      .hint = "use more threads, less depth, or a data path without zero copy"});
        };
        if (!buffer_table_) {
            const auto slots = static_cast<unsigned>(buffers_used_.size());
            const int result = slots == 0 ? -ENOSPC : register_sparse(slots);
            if (result < 0) return refused(-result);
            buffer_table_ = true;
        }
        const auto first = std::search_n(buffers_used_.begin(), buffers_used_.end(),
                                         static_cast<std::ptrdiff_t>(count), false);
        if (first == buffers_used_.end()) return refused(ENOSPC);
        std::fill_n(first, count, true);
        return static_cast<std::uint16_t>(first - buffers_used_.begin());
    }

    void release_buffers(std::uint16_t first, unsigned count) noexcept override {
        std::fill_n(buffers_used_.begin() + first, count, false);
    }

    Result<std::uint16_t> open_buffer_group(std::span<std::byte> memory, unsigned count) override {
        ASHLAR_ASSERT(std::has_single_bit(count) && count <= 32'768);
        const auto free = std::find_if(groups_.begin(), groups_.end(),
                                       [](const auto& group) { return !group.has_value(); });
        const auto id = static_cast<std::uint16_t>(free - groups_.begin());
        auto& group = free == groups_.end() ? groups_.emplace_back() : *free;
        group.emplace(memory, count);
        if (const int code = group->open(ring_, id); code != 0) {
            group.reset();
            return std::unexpected(Error{.operation = "provide buffers", .code = code});
        }
        return id;
    }

    void recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept override {
        groups_[group]->add(buffer);
    }

    void close_buffer_group(std::uint16_t group) noexcept override {
        if (open_) io_uring_unregister_buf_ring(&ring_, group);
        groups_[group].reset();
    }

    void io_command(const IoCommand& command, Operation& operation) noexcept override {
        io_uring_sqe* sqe = free_sqe();
        // The rest is a call, for nothing is to be kept across one here.
        if (sqe == nullptr) [[unlikely]]
            return io_command_with_room(command, operation);
        fill_io_command(sqe, command, file_flags_, &operation);
    }

    void silent_io_command(const IoCommand& command) noexcept override {
        const auto flags = static_cast<std::uint8_t>(file_flags_ | IOSQE_CQE_SKIP_SUCCESS);
        fill_io_command(next_sqe(), command, flags, nullptr);
    }

    void batch_command(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                       const std::byte* elements, Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        fill_command(sqe, file_flags_, static_cast<int>(file), opcode, &operation);
        sqe->addr = reinterpret_cast<std::uintptr_t>(elements);
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    }

    void batch_fetch(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                     std::uint16_t group, Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        const auto flags = static_cast<std::uint8_t>(file_flags_ | IOSQE_BUFFER_SELECT);
        fill_command(sqe, flags, static_cast<int>(file), opcode, &operation);
        sqe->rw_flags = static_cast<int>(kCommandMultishot);
        sqe->buf_group = group;
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    }

    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        fill_command(sqe, 0, fd, opcode, &operation);
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    }

    void submit(const Submission& submission, Operation& operation) noexcept override {
        const bool bounded = submission.kind != Submission::Kind::sleep &&
                             (submission.time.seconds != 0 || submission.time.nanoseconds != 0);
        // A bound is an entry of its own that must leave together with what it bounds.
        const unsigned together = bounded ? 2U : 1U + submission.followers;
        if (together > 1) make_room(together);
        io_uring_sqe* sqe = next_sqe();
        fill_entry(sqe, submission);
        sqe->user_data = reinterpret_cast<std::uintptr_t>(&operation);
        if (submission.followers != 0) sqe->flags |= IOSQE_IO_LINK;
        if (submission.at_once && !polled_) {
            sqe->msg_flags |= MSG_DONTWAIT | MSG_WAITALL;
            sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
            quiet_.push_back({&operation, static_cast<std::int32_t>(submission.length)});
        }
        if (!bounded) return;
        sqe->flags |= IOSQE_IO_LINK;
        io_uring_sqe* bound = next_sqe();
        io_uring_prep_rw(IORING_OP_LINK_TIMEOUT, bound, -1, &submission.time, 1, 0);
        bound->user_data = 0;
    }

    void cancel(Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        io_uring_prep_rw(IORING_OP_ASYNC_CANCEL, sqe, -1, &operation, 0, 0);
        sqe->user_data = 0;
    }

    int run_once(std::optional<std::chrono::milliseconds> timeout) noexcept override {
        ++rounds_;
        run_hooks();
        const bool looks = busy_poll_.wanted() && !timeout && busy_poll_.is_turn();
        const int result = looks ? look_and_wait() : submit_and_wait(timeout);
        // What comes while these are told is the next round's, for both alike.
        const unsigned end = io_uring_smp_load_acquire(ring_.cq.ktail);
        const bool any = settle_quiet(end);
        if (reap(end) || any) return 0;
        // liburing answers the number of submissions when the time passed after one.
        if (timeout && result >= 0) return ETIME;
        if (result >= 0) return 0;
        switch (-result) {
            case EINTR: return 0;
            case EAGAIN:
            case ENOMEM:
            case EBUSY: nanosleep(&kBackOff, nullptr); return 0;
            default: return -result;
        }
    }

    void wake(Woken& woken) noexcept override {
        Woken* head = woken_.load(std::memory_order_relaxed);
        do {
            woken.next_woken = head;
        } while (!woken_.compare_exchange_weak(head, &woken, std::memory_order_release,
                                               std::memory_order_relaxed));
        if (head != nullptr) return;  // whoever came first has rung
        const std::uint64_t one = 1;
        // Cannot fail: the counter cannot overflow and the descriptor is ours.
        ASHLAR_ASSERT(write(wake_.get(), &one, sizeof(one)) == sizeof(one));
    }

    void post(std::move_only_function<void()> call) override {
        const std::lock_guard lock(mutex_);
        posted_.push_back(std::move(call));
        if (posted_.size() == 1) wake(posted_woken_);
    }

private:
    // Reads the eventfd by the ring itself, so that one wait covers everything.
    class Wake final : public Operation {
    public:
        explicit Wake(UringReactor& reactor) : reactor_(reactor) {}
        [[gnu::noinline]] void complete(std::int32_t, std::uint32_t) noexcept override {
            reactor_.tell_woken();
            reactor_.await_wake();
        }

    private:
        UringReactor& reactor_;
    };

    class Posted final : public Woken {
    public:
        explicit Posted(UringReactor& reactor) : reactor_(reactor) {}
        void woken() noexcept override { reactor_.run_posted(); }

    private:
        UringReactor& reactor_;
    };

    int register_sparse(unsigned slots) noexcept {
        const int result = io_uring_register_buffers_sparse(&ring_, slots);
        return result == -EINVAL ? -EOPNOTSUPP : result;
    }

    static void fill_command(io_uring_sqe* sqe, std::uint8_t flags, int fd, std::uint32_t opcode,
                             Operation* operation) noexcept {
        sqe->opcode = IORING_OP_URING_CMD;
        sqe->flags = flags;
        sqe->ioprio = 0;
        sqe->fd = fd;
        sqe->off = opcode;  // cmd_op, and zero in the upper half
        sqe->addr = 0;
        sqe->len = 0;
        sqe->rw_flags = 0;
        sqe->user_data = reinterpret_cast<std::uintptr_t>(operation);
        sqe->buf_index = 0;
        sqe->personality = 0;
        sqe->file_index = 0;
    }

    static void fill_io_command(io_uring_sqe* sqe, const IoCommand& command, std::uint8_t flags,
                                Operation* operation) noexcept {
        fill_command(sqe, flags, static_cast<int>(command.file), command.opcode, operation);
        sqe->addr = command.registration;
        // The command lies in the last 16 bytes of an ordinary entry.
        std::memcpy(static_cast<void*>(sqe->cmd), &command.command, sizeof(command.command));
    }

    // Hands over what is queued until `count` entries are free.
    void make_room(unsigned count) noexcept {
        while (io_uring_sq_space_left(&ring_) < count) {
            // The kernel may be short of memory for a while; a polling thread may be busy.
            if (io_uring_submit(&ring_) < 0) nanosleep(&kBackOff, nullptr);
            if (polled_) io_uring_sqring_wait(&ring_);
        }
    }

    [[gnu::noinline]] void io_command_with_room(const IoCommand& command,
                                                Operation& operation) noexcept {
        make_room(1);
        io_command(command, operation);
    }

    // As io_uring_get_sqe, for entries of the ordinary size. Null when all are taken.
    io_uring_sqe* free_sqe() noexcept {
        io_uring_sq& queue = ring_.sq;
        const unsigned tail = queue.sqe_tail;
        if (tail - io_uring_smp_load_acquire(queue.khead) >= queue.ring_entries) return nullptr;
        queue.sqe_tail = tail + 1;
        return &queue.sqes[tail & queue.ring_mask];
    }

    io_uring_sqe* next_sqe() noexcept {
        io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
        if (sqe == nullptr) [[unlikely]] {
            make_room(1);
            sqe = io_uring_get_sqe(&ring_);
        }
        return sqe;
    }

    int submit_and_wait(std::optional<std::chrono::milliseconds> timeout) noexcept {
        if (!timeout) return io_uring_submit_and_wait(&ring_, 1);
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(*timeout);
        __kernel_timespec limit{
            .tv_sec = seconds.count(),
            .tv_nsec = std::chrono::nanoseconds(*timeout - seconds).count(),
        };
        io_uring_cqe* cqe = nullptr;
        return io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &limit, nullptr);
    }

    // The same without a time-out, but looks for work before it sleeps.
    [[gnu::noinline]] int look_and_wait() noexcept {
        const int submitted =
            polled_ ? io_uring_submit(&ring_) : io_uring_submit_and_get_events(&ring_);
        if (submitted < 0 || io_uring_cq_ready(&ring_) != 0) return submitted;
        const std::uint64_t begun = clock_.now();
        bool found = false;
        while (!found && clock_.nanoseconds(clock_.now() - begun) < busy_poll_.limit()) {
            relax_cpu();
            // Task work need not end in a completion.
            if (has_task_work()) io_uring_get_events(&ring_);
            found = io_uring_cq_ready(&ring_) != 0;
        }
        busy_poll_.looked(found);
        return found ? submitted : io_uring_submit_and_wait(&ring_, 1);
    }

    [[nodiscard]] bool has_task_work() const noexcept {
        return (__atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED) &
                (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
    }

    // What was carried out without a word has succeeded; true when there was any. What failed has a
    // completion. What is not with the kernel yet, or whose completion could not be told for want
    // of room, is looked at again later.
    bool settle_quiet(unsigned end) noexcept {
        if (quiet_.empty()) [[likely]]
            return false;
        for (unsigned at = *ring_.cq.khead; at != end; ++at) {
            const auto failed = std::ranges::find(
                quiet_, ring_.cq.cqes[at & ring_.cq.ring_mask].user_data, &Quiet::user_data);
            if (failed != quiet_.end()) quiet_.erase(failed);
        }
        if (io_uring_sq_ready(&ring_) != 0 || io_uring_cq_has_overflow(&ring_)) return false;
        settling_.swap(quiet_);
        for (const Quiet& each : settling_) each.operation->complete(each.result, 0);
        settling_.clear();
        return true;
    }

    // True when anything but a time-out of liburing's own came.
    [[gnu::noinline]] bool reap(unsigned end) noexcept {
        const unsigned first = *ring_.cq.khead;
        const io_uring_cqe* const cqes = ring_.cq.cqes;  // 16 bytes each: no ring here has CQE32
        const unsigned mask = ring_.cq.ring_mask;
        for (unsigned at = first; at != end; ++at) {
            const io_uring_cqe& cqe = cqes[at & mask];
            auto* operation =
                reinterpret_cast<Operation*>(static_cast<std::uintptr_t>(cqe.user_data));
            // Null: bounds and cancellations, whose effect is seen elsewhere.
            if (operation != nullptr) [[likely]]
                operation->complete(cqe.res, cqe.flags);
        }
        io_uring_smp_store_release(ring_.cq.khead, end);
        add_brought(end - first);
        return end != first;
    }

    void await_wake() noexcept {
        io_uring_sqe* sqe = next_sqe();
        io_uring_prep_read(sqe, wake_.get(), &wake_count_, sizeof(wake_count_), 0);
        sqe->user_data =
            reinterpret_cast<std::uintptr_t>(static_cast<Operation*>(&wake_operation_));
    }

    void tell_woken() noexcept {
        Woken* last = woken_.exchange(nullptr, std::memory_order_acquire);
        Woken* first = nullptr;
        while (last != nullptr) {
            Woken* next = std::exchange(last->next_woken, first);
            first = std::exchange(last, next);
        }
        while (first != nullptr) {
            Woken* next = first->next_woken;
            first->woken();  // may be its end
            first = next;
        }
    }

    void run_posted() {
        std::vector<std::move_only_function<void()>> calls;
        {
            const std::lock_guard lock(mutex_);
            calls.swap(posted_);
        }
        for (auto& call : calls) call();
    }

    // An operation whose success makes no completion.
    struct Quiet {
        Operation* operation = nullptr;
        std::int32_t result = 0;
        [[nodiscard]] std::uint64_t user_data() const noexcept {
            return reinterpret_cast<std::uintptr_t>(operation);
        }
    };

    io_uring ring_{};
    bool open_ = false;
    const std::uint8_t file_flags_;  // of every command: whether a slot is one, or a descriptor
    const bool polled_;
    BusyPoll busy_poll_;
    const TickClock clock_;
    std::vector<FileSlot> free_files_;
    std::vector<bool> buffers_used_;
    bool buffer_table_ = false;
    std::vector<std::optional<BufferGroup>> groups_;
    std::vector<Quiet> quiet_;     // submitted
    std::vector<Quiet> settling_;  // the same, when they are told
    RingEnd end_;
    Fd wake_;
    std::uint64_t wake_count_ = 0;
    Wake wake_operation_{*this};
    std::atomic<Woken*> woken_ = nullptr;  // the latest first
    Posted posted_woken_{*this};
    std::mutex mutex_;
    std::vector<std::move_only_function<void()>> posted_;  // guarded by mutex_
};

}  // namespace

Result<std::unique_ptr<Reactor>> open_uring_reactor(const ReactorOptions& options) {
    if (options.entries == 0 || options.entries > kEntriesMax) {
        return std::unexpected(Error{.operation = "set up io_uring",
                                     .code = EINVAL,
                                     .detail = "entries must be 1 to 32768"});
    }
    auto reactor = std::make_unique<UringReactor>(options);
    if (const int code = reactor->open(options); code != 0) {
        return std::unexpected(ring_error(code, options));
    }
    return reactor;
}

}  // namespace ashlar
