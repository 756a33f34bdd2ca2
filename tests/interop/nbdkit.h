// Servers of the NBD protocol that others wrote, each on a Unix socket in a directory of its own.
#pragma once

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ashlar/nbd.h>

#include "support/child_process.h"

namespace ashlar::test {

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

    // Another one in place of the one that runs; returns when it listens.
    void start(std::vector<std::string> words) {
        process_.reset();
        std::filesystem::remove(socket());
        process_ = std::make_unique<ChildProcess>(std::move(words));
        for (int i = 0; i < 4000 && !listens(); ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
    void start_nbdkit(std::vector<std::string> words) {
        words.insert(words.begin(), {"nbdkit", "-f", "-U", socket()});
        start(std::move(words));
    }
    void kill() { process_.reset(); }
    void signal(int number) const { process_->signal(number); }

private:
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
    std::unique_ptr<ChildProcess> process_;
};

}  // namespace ashlar::test
