// The model of the driver is checked against the real one: the same scenarios in both lanes, and
// what they say must be the same.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <ashlar/ashlar.h>

#include "kernel/abi.h"
#include "sim/scenarios.h"
#include "sim/storm_lane.h"

extern char** environ;

namespace ashlar::sim {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr std::size_t kLength = 4096;
constexpr off_t kApart = 65536;
constexpr int kAtOnce = 10;
constexpr int kOldMs = 1000;
constexpr auto kSettled = 400ms;  // whatever is under way has ended by then, or waits

// What a server and the test share.
struct Shared {
    std::atomic<int> mode;
    std::atomic<int> started;  // -1 until the server knows; 0 or an errno
    std::atomic<unsigned> id;
};

Shared& map_shared(int fd) {
    void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap");
    return *static_cast<Shared*>(memory);
}

// A process of its own: serve FD RECOVERY PATH COMMANDS [ID]
int serve(char** arguments, bool recovering) {
    Shared& shared = map_shared(std::atoi(arguments[0]));
    auto backend = open_scenario_backend(shared.mode);
    const DeviceOptions options{.queues = 1,
                                .depth = kScenarioDepth,
                                .io_max = kLength,
                                .data_path = static_cast<DataPath>(std::atoi(arguments[2])),
                                .commands = static_cast<CommandStyle>(std::atoi(arguments[3])),
                                .recovery = static_cast<Recovery>(std::atoi(arguments[1]))};
    auto device = recovering ? Device::recover(backend, shared.id, options)
                             : Device::create(backend, options);
    if (!device) {
        std::fprintf(stderr, "%s\n", device.error().message().c_str());
        shared.started = device.error().code;
        return 1;
    }
    shared.id = device->info().id;
    const auto started = device->start();
    if (!started) std::fprintf(stderr, "%s\n", started.error().message().c_str());
    shared.started = started ? 0 : started.error().code;
    static_cast<void>(device->wait());
    // Without tidying up: what happens to the device is the test's business.
    _exit(0);
}

class Real final : public Lane {
public:
    explicit Real(const Scenario& scenario)
        : scenario_(scenario),
          control_(std::move(Control::open().value())),
          memory_(memfd_create("shared", 0)) {
        if (memory_ < 0 || ftruncate(memory_, sizeof(Shared)) != 0) throw std::runtime_error("mem");
        shared_ = &map_shared(memory_);
        if (const int code = spawn(false); code != 0) {
            throw std::runtime_error("start: " + errno_name(code));
        }
        const std::string path = "/dev/ublkb" + std::to_string(shared_->id);
        disk_ = open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        if (disk_ < 0) throw std::runtime_error("open " + path);
        notice_deaths_soon();
    }
    ~Real() override {
        shared_->mode = kServe;
        static_cast<void>(control_.stop(shared_->id));
        end_server();
        for (auto& asked : asked_) asked->thread.join();
        if (stop_.joinable()) stop_.join();
        close(disk_);
        EXPECT_TRUE(control_.remove(shared_->id));
        munmap(shared_, sizeof(Shared));
        close(memory_);
    }

    std::string carry_out(const Move& move) override {
        switch (move.step) {
            case Step::hold: shared_->mode = kHold; return {};
            case Step::serve: shared_->mode = kServe; return {};
            case Step::fail: shared_->mode = move.value; return {};
            case Step::write: ask(true); return {};
            case Step::read: ask(false); return {};
            case Step::answers: return answers();
            case Step::kill: kill_server(); return {};
            case Step::stop: stop(); return {};
            case Step::stopped:
                std::this_thread::sleep_for(kSettled);
                return stop_result_ < 0 ? "stop waits" : "stop: " + errno_name(stop_result_);
            case Step::quiesce: {
                const auto quiesced = control_.quiesce(shared_->id, 300ms);
                return "quiesce: " + errno_name(quiesced ? 0 : quiesced.error().code);
            }
            case Step::recover: return "recover: " + errno_name(spawn(true));
            case Step::state:
                std::this_thread::sleep_for(kSettled);
                return "state: " + std::string(name(state()));
        }
        return {};
    }

private:
    struct Asked {
        std::atomic<int> answer = -1;
        bool told = false;
        bool gone = false;
        std::thread thread;
    };

    DeviceState state() {
        const auto info = control_.info(shared_->id);
        return info ? info->state : DeviceState::dead;
    }

    int spawn(bool recovering) {
        shared_->started = -1;
        const std::string self = std::filesystem::read_symlink("/proc/self/exe");
        std::vector<std::string> words = {self, recovering ? "recover" : "serve",
                                          std::to_string(memory_)};
        for (const int value :
             {static_cast<int>(scenario_.recovery), static_cast<int>(scenario_.data_path),
              static_cast<int>(scenario_.commands)}) {
            words.push_back(std::to_string(value));
        }
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        if (posix_spawn(&server_, self.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) {
            return errno;
        }
        const auto deadline = steady_clock::now() + 20s;
        while (shared_->started < 0 && steady_clock::now() < deadline) {
            std::this_thread::sleep_for(5ms);
        }
        return shared_->started < 0 ? ETIMEDOUT : shared_->started.load();
    }

    void end_server() {
        if (server_ <= 0) return;
        kill(server_, SIGKILL);
        waitpid(server_, nullptr, 0);
        server_ = -1;
    }

    // Before 6.16 a server with all tags busy is missed only when a request is so old: 30 s unless
    // somebody says otherwise, which is also when the kernel complains of whoever waits.
    void notice_deaths_soon() {
        if (control_.features().value() & kernel::abi::f_quiesce) return;
        std::ofstream file("/sys/block/ublkb" + std::to_string(shared_->id) + "/queue/io_timeout");
        file << kOldMs << std::flush;
        if (!file) throw std::runtime_error("set io_timeout");
    }

    void kill_server() {
        end_server();
        for (int i = 0; i < 4500 && state() == DeviceState::live; ++i) {
            std::this_thread::sleep_for(10ms);
        }
    }

    void ask(bool write) {
        auto& asked = asked_.emplace_back(std::make_unique<Asked>());
        asked->gone = state() == DeviceState::dead;
        const off_t place = kApart * static_cast<off_t>(asked_.size() - 1);
        asked->thread = std::thread([at = asked.get(), write, place, fd = disk_] {
            alignas(4096) std::array<char, kLength> data{};
            const ssize_t moved = write ? pwrite(fd, data.data(), kLength, place)
                                        : pread(fd, data.data(), kLength, place);
            at->answer = moved == static_cast<ssize_t>(kLength) ? 0 : moved < 0 ? errno : EIO;
        });
        std::this_thread::sleep_for(50ms);
    }

    std::string answers() {
        std::this_thread::sleep_for(kSettled);
        std::string said = "answers:";
        for (std::size_t i = 0; i < asked_.size(); ++i) {
            Asked& asked = *asked_[i];
            if (asked.told) continue;
            const int answer = asked.answer;
            asked.told = answer >= 0;
            said += " " + std::to_string(i + 1) + "=";
            said += asked.gone ? "gone" : answer < 0 ? "waits" : errno_name(answer);
        }
        return said;
    }

    void stop() {
        if (stop_.joinable()) return;
        stop_ = std::thread([this, id = shared_->id.load()] {
            auto control = Control::open();
            const auto stopped = control->stop(id);
            stop_result_ = stopped ? 0 : stopped.error().code;
        });
    }

    const Scenario& scenario_;
    Control control_;
    int memory_;
    Shared* shared_ = nullptr;
    pid_t server_ = -1;
    int disk_ = -1;
    std::vector<std::unique_ptr<Asked>> asked_;
    std::thread stop_;
    std::atomic<int> stop_result_ = -1;
};

std::string lines(const std::vector<std::string>& said) {
    std::string text;
    for (const std::string& line : said) text += "  " + line + "\n";
    return text;
}

// What the driver says; several devices at a time, for they mostly wait.
std::vector<std::vector<std::string>> run_for_real(const std::vector<Scenario>& all) {
    std::vector<std::vector<std::string>> said(all.size());
    std::atomic<std::size_t> next = 0;
    std::vector<std::jthread> workers;
    for (int i = 0; i < kAtOnce; ++i) {
        workers.emplace_back([&] {
            for (std::size_t at = next++; at < all.size(); at = next++) {
                SCOPED_TRACE(all[at].name);
                Real lane(all[at]);
                said[at] = run(all[at], lane);
            }
        });
    }
    workers.clear();
    return said;
}

TEST(Model, SaysWhatTheDriverSays) {
    const std::uint64_t offered = Control::open().value().features().value();
    const auto all = scenarios(offered);
    ASSERT_GT(all.size(), 10U);
    auto real = run_for_real(all);
    for (std::size_t i = 0; i < all.size(); ++i) {
        SCOPED_TRACE(all[i].name);
        const auto model = open_model(all[i], offered);
        const std::string expected = lines(run(all[i], *model));
        // What is told by the time that it takes may be the machine's word, not the driver's, when
        // ten devices share its CPUs: what differs is played again, alone.
        for (int again = 0; again < 2 && lines(real[i]) != expected; ++again) {
            Real lane(all[i]);
            real[i] = run(all[i], lane);
        }
        EXPECT_EQ(expected, lines(real[i]));
    }
}

}  // namespace
}  // namespace ashlar::sim

int main(int count, char** arguments) {
    const std::string verb = count > 1 ? arguments[1] : "";
    if (verb == "serve" || verb == "recover") {
        return ashlar::sim::serve(arguments + 2, verb == "recover");
    }
    testing::InitGoogleTest(&count, arguments);
    return RUN_ALL_TESTS();
}
