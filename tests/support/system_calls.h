// Counts one system call of the calling thread, whoever makes it.
//
// Why this way: liburing makes its system calls with inline assembly, so there is no symbol to
// interpose; strace may be missing; ptrace wants a second process and quarrels with sanitizers. A
// seccomp filter that asks a supervisor sees every call, costs nothing else, and needs no rights.
// The filter stays for the rest of the thread's life: use it on a thread of its own.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include "base/fd.h"

namespace ashlar::test {

class SystemCallCounter {
public:
    // number: __NR_io_uring_enter and the like.
    explicit SystemCallCounter(int number) {
        const auto wanted = static_cast<std::uint32_t>(number);
        std::array<sock_filter, 4> filter = {{
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, wanted, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        }};
        const sock_fprog program{.len = filter.size(), .filter = filter.data()};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw std::runtime_error("no_new_privs");
        // The supervisor starts first: without the filter, which threads inherit.
        supervisor_ = std::thread([this] { supervise(); });
        listener_ = Fd(static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                                SECCOMP_FILTER_FLAG_NEW_LISTENER, &program)));
        const int error = errno;
        state_.store(listener_.valid() ? 1 : 2);
        state_.notify_one();
        if (!listener_.valid()) {
            supervisor_.join();
            throw std::runtime_error("seccomp: errno " + std::to_string(error));
        }
    }
    // The thread must not make the system call any more.
    ~SystemCallCounter() {
        ending_ = true;
        supervisor_.join();
    }
    SystemCallCounter(const SystemCallCounter&) = delete;
    SystemCallCounter& operator=(const SystemCallCounter&) = delete;

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

private:
    void supervise() {
        state_.wait(0);
        if (state_ != 1) return;
        while (!ending_) {
            pollfd ready{.fd = listener_.get(), .events = POLLIN, .revents = 0};
            if (poll(&ready, 1, 10) <= 0) continue;
            seccomp_notif call{};
            if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue;
            ++count_;
            seccomp_notif_resp answer{
                .id = call.id, .val = 0, .error = 0, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
            ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);
        }
    }

    Fd listener_;
    std::atomic<int> state_ = 0;  // 1: the listener stands, 2: there is none
    std::atomic<bool> ending_ = false;
    std::atomic<std::uint64_t> count_ = 0;
    std::thread supervisor_;
};

}  // namespace ashlar::test
