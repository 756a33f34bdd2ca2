// The reactor over a real io_uring. The only file that sees liburing.
#include <liburing.h>
#include <sys/eventfd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/fd.h"
#include "reactor/reactor.h"

namespace ashlar {
namespace {

constexpr unsigned kEntriesMax = 32'768;
// After a round that the kernel refused for want of memory.
constexpr timespec kBackOff{.tv_sec = 0, .tv_nsec = 1'000'000};

Error ring_error(int code) {
    Error error{.operation = "set up io_uring", .code = code};
    if (code == ENOSYS) {
        error.detail = "this kernel has no io_uring";
        error.hint = "use a kernel with CONFIG_IO_URING, 6.0 or newer";
    } else if (code == EPERM || code == EACCES) {
        error.detail = "io_uring is switched off for this process";
        error.hint = "see the sysctl kernel.io_uring_disabled and the container's seccomp profile";
    } else if (code == ENOMEM) {
        error.hint = "raise the limit on locked memory (ulimit -l)";
    } else if (code == EMFILE) {
        error.hint = "raise the limit on open files (ulimit -n)";
    }
    return error;
}

class UringReactor final : public Reactor {
public:
    explicit UringReactor(const ReactorOptions& options)
        : control_(options.control_commands),
          file_flags_(options.register_files ? std::uint8_t{IOSQE_FIXED_FILE} : std::uint8_t{0}),
          free_files_(options.files) {
        for (unsigned i = 0; i < options.files; ++i) free_files_[i] = options.files - 1 - i;
    }

    ~UringReactor() override {
        if (open_) io_uring_queue_exit(&ring_);
    }

    // Called once, on the thread that will use the reactor.
    int open(const ReactorOptions& options) {
        // The newest set-up first. SINGLE_ISSUER is 6.0, DEFER_TASKRUN 6.1; a kernel that does not
        // know a flag answers EINVAL. Control moves between threads, so it goes without.
        constexpr std::array<unsigned, 3> queue_flags = {
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, 0};
        constexpr std::array<unsigned, 1> control_flags = {IORING_SETUP_SQE128};
        const std::span<const unsigned> attempts =
            control_ ? std::span<const unsigned>(control_flags) : queue_flags;
        int result = -EINVAL;
        for (const unsigned flags : attempts) {
            io_uring_params params{};
            params.flags = flags | IORING_SETUP_CLAMP;
            result = io_uring_queue_init_params(options.entries, &ring_, &params);
            if (result != -EINVAL) break;
        }
        if (result < 0) return -result;
        open_ = true;
        io_uring_ring_dontfork(&ring_);
        // Saves a lookup a system call, on this thread only; kernels before 5.18 do without.
        if (!control_) io_uring_register_ring_fd(&ring_);
        result = io_uring_register_files_sparse(&ring_, options.files);
        if (result < 0) return -result;
        wake_ = Fd(eventfd(0, EFD_CLOEXEC));
        if (!wake_.valid()) return errno;
        await_wake();
        return 0;
    }

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

    void io_command(FileSlot file, std::uint32_t opcode, const kernel::abi::IoCmd& command,
                    Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        fill_command(sqe, static_cast<int>(file), opcode, operation);
        sqe->flags = file_flags_;
        // The command lies in the last 16 bytes of an ordinary entry.
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    }

    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override {
        io_uring_sqe* sqe = next_sqe();
        fill_command(sqe, fd, opcode, operation);
        sqe->flags = 0;
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    }

    int run_once(std::optional<std::chrono::milliseconds> timeout) noexcept override {
        ++rounds_;
        const int result =
            timeout ? submit_and_wait(*timeout) : io_uring_submit_and_wait(&ring_, 1);
        const bool any = reap();
        if (any) return 0;
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

    void post(std::move_only_function<void()> call) override {
        {
            const std::lock_guard lock(mutex_);
            posted_.push_back(std::move(call));
        }
        const std::uint64_t one = 1;
        // Cannot fail: the counter cannot overflow and the descriptor is ours.
        ASHLAR_ASSERT(write(wake_.get(), &one, sizeof(one)) == sizeof(one));
    }

private:
    // Reads the eventfd by the ring itself, so that one wait covers everything.
    class Wake final : public Operation {
    public:
        explicit Wake(UringReactor& reactor) : reactor_(reactor) {}
        void complete(std::int32_t, std::uint32_t) noexcept override {
            reactor_.run_posted();
            reactor_.await_wake();
        }

    private:
        UringReactor& reactor_;
    };

    static void fill_command(io_uring_sqe* sqe, int fd, std::uint32_t opcode,
                             Operation& operation) noexcept {
        sqe->opcode = IORING_OP_URING_CMD;
        sqe->ioprio = 0;
        sqe->fd = fd;
        sqe->off = opcode;  // cmd_op, and zero in the upper half
        sqe->addr = 0;
        sqe->len = 0;
        sqe->rw_flags = 0;
        sqe->user_data = reinterpret_cast<std::uintptr_t>(&operation);
        sqe->buf_index = 0;
        sqe->personality = 0;
        sqe->file_index = 0;
    }

    io_uring_sqe* next_sqe() noexcept {
        io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
        while (sqe == nullptr) [[unlikely]] {
                // Full: hand over what is there. The kernel may be short of memory for a while.
                if (io_uring_submit(&ring_) < 0) nanosleep(&kBackOff, nullptr);
                sqe = io_uring_get_sqe(&ring_);
            }
        return sqe;
    }

    int submit_and_wait(std::chrono::milliseconds timeout) noexcept {
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
        __kernel_timespec limit{
            .tv_sec = seconds.count(),
            .tv_nsec = std::chrono::nanoseconds(timeout - seconds).count(),
        };
        io_uring_cqe* cqe = nullptr;
        return io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &limit, nullptr);
    }

    // True when anything but a time-out of liburing's own came.
    bool reap() noexcept {
        unsigned head = 0;
        unsigned count = 0;
        io_uring_cqe* cqe = nullptr;
        io_uring_for_each_cqe(&ring_, head, cqe) {
            ++count;
            auto* operation =
                reinterpret_cast<Operation*>(static_cast<std::uintptr_t>(cqe->user_data));
            operation->complete(cqe->res, cqe->flags);
        }
        io_uring_cq_advance(&ring_, count);
        return count > 0;
    }

    void await_wake() noexcept {
        io_uring_sqe* sqe = next_sqe();
        io_uring_prep_read(sqe, wake_.get(), &wake_count_, sizeof(wake_count_), 0);
        sqe->user_data =
            reinterpret_cast<std::uintptr_t>(static_cast<Operation*>(&wake_operation_));
    }

    void run_posted() {
        std::vector<std::move_only_function<void()>> calls;
        {
            const std::lock_guard lock(mutex_);
            calls.swap(posted_);
        }
        for (auto& call : calls) call();
    }

    io_uring ring_{};
    bool open_ = false;
    const bool control_;
    const std::uint8_t file_flags_;  // of every command: whether a slot is one, or a descriptor
    std::vector<FileSlot> free_files_;
    Fd wake_;
    std::uint64_t wake_count_ = 0;
    Wake wake_operation_{*this};
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
        return std::unexpected(ring_error(code));
    }
    return reactor;
}

}  // namespace ashlar
