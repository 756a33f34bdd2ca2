// Servers of the NBD protocol that others wrote, each on a Unix socket in a directory of its own,
// or on a TCP port of its own.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ashlar/nbd.h>

#include "base/fd.h"
#include "support/child_process.h"

namespace ashlar::test {

// A port that nobody listens on. No other test gets it as long as this lives, and no program by
// accident, since it lies below those that the kernel gives away.
class TcpPort {
public:
    TcpPort() {
        std::random_device random;
        do {
            number_ = static_cast<std::uint16_t>(10'000 + random() % 20'000);
        } while (!is_ours() || !is_free());
    }
    [[nodiscard]] std::string text() const { return std::to_string(number_); }
    [[nodiscard]] std::uint16_t number() const { return number_; }

private:
    // A name that one process at a time can have.
    bool is_ours() {
        sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
        const std::string text = "ashlar-test-port-" + std::to_string(number_);
        text.copy(name.sun_path + 1, sizeof(name.sun_path) - 1);
        claim_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return bind(claim_.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
    }
    [[nodiscard]] bool is_free() const {
        const sockaddr_in address{.sin_family = AF_INET,
                                  .sin_port = htons(number_),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)},
                                  .sin_zero = {}};
        const Fd attempt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return bind(attempt.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
               0;
    }

    std::uint16_t number_ = 0;
    Fd claim_;
};

// Runs a shell command that must succeed.
inline void run_to_end(const std::string& command, const std::string& package) {
    if (std::system(command.c_str()) != 0) {
        throw std::runtime_error(command + ": failed; is Debian's package " + package +
                                 " installed? 'tools/setup test' does");
    }
}

class NbdServer {
public:
    NbdServer() {
        std::string name = (std::filesystem::temp_directory_path() / "nbd-XXXXXX").string();
        directory_ = mkdtemp(name.data());
    }
    NbdServer(const NbdServer&) = delete;
    NbdServer& operator=(const NbdServer&) = delete;
    ~NbdServer() {
        process_.reset();
        std::filesystem::remove_all(directory_);
    }

    // A file of the server's directory.
    [[nodiscard]] std::string path(const std::string& name) const {
        return directory_ + "/" + name;
    }
    [[nodiscard]] std::string socket() const { return path("socket"); }
    [[nodiscard]] std::string uri(const std::string& name = "") const {
        return "nbd+unix:///" + name + "?socket=" + socket();
    }
    // By TCP.
    [[nodiscard]] const TcpPort& port() const { return port_; }
    [[nodiscard]] std::string tcp_uri(const std::string& name = "") const {
        return "nbd://localhost:" + port_.text() + "/" + name;
    }

    // A file of zeroes, made anew.
    [[nodiscard]] std::string fresh_file(std::uintmax_t size,
                                         const std::string& name = "disk") const {
        std::filesystem::remove(path(name));
        std::ofstream(path(name)).close();
        std::filesystem::resize_file(path(name), size);
        return path(name);
    }

    // Another one in place of the one that runs; returns when it listens on the socket.
    void start(std::vector<std::string> words) {
        start(std::move(words), [this] { return listens(); });
    }
    // The same, on the port.
    void start_tcp(std::vector<std::string> words) {
        start(std::move(words), [this] { return listens_on_port(); });
    }
    // One that leaves for the background, on the socket or the port; `words` make it write its
    // process id into path("pid").
    void start_daemon(const std::vector<std::string>& words, bool tcp) {
        start(words, [this, tcp] { return tcp ? listens_on_port() : listens(); });
        pid_t process = 0;
        std::ifstream(path("pid")) >> process;
        if (process <= 0) throw std::runtime_error(words.front() + " names no process");
        process_ = std::make_unique<ChildProcess>(process);
    }
    void start_nbdkit(std::vector<std::string> words) {
        words.insert(words.begin(), {"nbdkit", "-f", "-U", socket()});
        start(std::move(words));
    }
    void kill() { process_.reset(); }
    void signal(int number) const { process_->signal(number); }

private:
    void start(std::vector<std::string> words, const std::function<bool()>& is_there) {
        constexpr std::array<std::array<std::string_view, 2>, 3> packages{
            {{"nbdkit", "nbdkit"}, {"qemu-nbd", "qemu-utils"}, {"nbd-server", "nbd-server"}}};
        process_.reset();
        std::filesystem::remove(socket());
        // What an earlier one left behind may still listen for a moment.
        for (int i = 0; i < 1000 && is_there(); ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        const std::string program = words.front();
        try {
            process_ = std::make_unique<ChildProcess>(std::move(words));
        } catch (const std::runtime_error& error) {
            std::string text = error.what();
            for (const auto& [name, package] : packages) {
                if (name == program) text += "; the package is " + std::string(package);
            }
            throw std::runtime_error(text);
        }
        for (int i = 0; i < 4000; ++i) {
            if (is_there()) return;
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        throw std::runtime_error(program + " does not listen after 8 s");
    }
    [[nodiscard]] bool listens_on_port() const {
        constexpr std::string_view digits = "0123456789ABCDEF";
        std::string address = ":";
        for (int shift = 12; shift >= 0; shift -= 4) {
            address += digits[port_.number() >> shift & 15];
        }
        for (const char* const table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
            std::ifstream sockets(table);
            for (std::string line; std::getline(sockets, line);) {
                std::istringstream words(line);
                std::string index, local, remote, state;
                words >> index >> local >> remote >> state;
                if (local.ends_with(address) && state == "0A") return true;
            }
        }
        return false;
    }
    // Without connecting, which a server may count.
    [[nodiscard]] bool listens() const {
        constexpr std::string_view listening = " 00010000 ";
        std::ifstream sockets("/proc/net/unix");
        for (std::string line; std::getline(sockets, line);) {
            if (line.ends_with(" " + socket()) && line.find(listening) != std::string::npos) {
                return true;
            }
        }
        return false;
    }

    std::string directory_;
    TcpPort port_;
    std::unique_ptr<ChildProcess> process_;
};

}  // namespace ashlar::test
