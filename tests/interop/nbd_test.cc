// The NBD backend with other people's servers: each serves a fresh disk, and the suite that every
// backend passes runs on it.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <ashlar/nbd.h>

#include "conformance/backend_conformance.h"

extern char** environ;

namespace ashlar {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// A server in a process of its own, killed at the end.
class Server {
public:
    explicit Server(std::vector<std::string> words) {
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        const int failed =
            posix_spawnp(&process_, arguments[0], nullptr, nullptr, arguments.data(), environ);
        if (failed != 0) process_ = -1;
    }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;
    ~Server() {
        if (process_ <= 0) return;
        kill(process_, SIGKILL);
        waitpid(process_, nullptr, 0);
    }
    [[nodiscard]] bool started() const { return process_ > 0; }

private:
    pid_t process_ = -1;
};

class Nbdkit : public testing::Test {
protected:
    Nbdkit() {
        std::string name = (fs::temp_directory_path() / "nbd-XXXXXX").string();
        directory_ = mkdtemp(name.data());
    }
    ~Nbdkit() override { fs::remove_all(directory_); }

    [[nodiscard]] std::string socket() const { return directory_ + "/socket"; }
    [[nodiscard]] NbdOptions options() const {
        return {.uri = "nbd+unix:///?socket=" + socket()};
    }

    // Each disk is a server of its own.
    std::string conformance(std::vector<std::string> words, unsigned threads = 4) {
        std::vector<std::unique_ptr<Server>> servers;
        const auto open = [&]() -> Result<std::shared_ptr<Backend>> {
            servers.clear();
            fs::remove(socket());
            servers.push_back(std::make_unique<Server>(words));
            for (int i = 0; i < 1000 && !fs::exists(socket()); ++i) {
                std::this_thread::sleep_for(5ms);
            }
            return open_nbd(options());
        };
        return test::check_conformance({.open = open, .operations = 500, .threads = threads});
    }

    std::string directory_;
};

TEST_F(Nbdkit, MemoryConforms) {
    EXPECT_EQ(conformance({"nbdkit", "-f", "-U", socket(), "memory", "64M"}), "");
}

}  // namespace
}  // namespace ashlar
