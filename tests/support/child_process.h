// ChildProcess: a program that runs beside a test, and is killed at its end.
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

extern char** environ;

namespace ashlar::test {

class ChildProcess {
public:
    // Throws when the program is not there.
    explicit ChildProcess(std::vector<std::string> words) {
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        const int failed =
            posix_spawnp(&process_, arguments[0], nullptr, nullptr, arguments.data(), environ);
        if (failed != 0) {
            throw std::runtime_error(words[0] + ": " + std::generic_category().message(failed) +
                                     "; tools/setup test installs it");
        }
    }
    // Takes over one that runs already, and need not be a child.
    explicit ChildProcess(pid_t process) : process_(process) {}
    ChildProcess(const ChildProcess&) = delete;
    ChildProcess& operator=(const ChildProcess&) = delete;
    ~ChildProcess() {
        const int ended = static_cast<int>(syscall(SYS_pidfd_open, process_, 0));
        kill(process_, SIGKILL);
        pollfd waiting{.fd = ended, .events = POLLIN, .revents = 0};
        if (ended >= 0) poll(&waiting, 1, -1);
        close(ended);
        waitpid(process_, nullptr, 0);
    }
    // After SIGSTOP it does nothing any more: its threads stop one after another.
    void signal(int number) const {
        kill(process_, number);
        siginfo_t stopped{};
        if (number == SIGSTOP) {
            waitid(P_PID, static_cast<id_t>(process_), &stopped, WSTOPPED | WNOWAIT);
        }
    }

private:
    pid_t process_ = -1;
};

}  // namespace ashlar::test
