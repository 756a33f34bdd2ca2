// storm: runs the engine in simulations, one for each seed, until something is wrong.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "sim/storm_world.h"

namespace {

using ashlar::sim::Outcome;
using ashlar::sim::World;
using std::chrono::steady_clock;

struct Options {
    std::optional<std::uint64_t> seed{};  // one only
    std::uint64_t first = 1;
    std::uint64_t seeds = 1000;
    double minutes = 0;  // 0: as long as the seeds take
    unsigned jobs = std::thread::hardware_concurrency();
    std::string list{};  // a file of seeds, one a line
    bool trace = false;
    bool hashes = false;
};

constexpr const char* kUsage =
    "usage: storm [--seed N] [--from N] [--seeds N] [--minutes M] [--jobs J]\n"
    "             [--list FILE] [--trace] [--hashes]\n"
    "  --seed N     that seed only\n"
    "  --from N     the first seed; default 1\n"
    "  --seeds N    how many; default 1000\n"
    "  --minutes M  seed after seed for so long, whatever --seeds says\n"
    "  --jobs J     processes; default: one for each CPU\n"
    "  --list FILE  the seeds in it, one a line\n"
    "  --trace      with --seed: every event\n"
    "  --hashes     the hash of every seed's events\n";

// What the processes tell each other.
struct Shared {
    std::atomic<std::uint64_t> next;  // seed
    std::atomic<std::uint64_t> done;  // seeds
    std::atomic<std::uint64_t> requests;
    std::atomic<std::uint64_t> errors;
    std::atomic<bool> failed;
};

std::string g_program;
std::uint64_t g_seed = 0;
const World* g_world = nullptr;

void print_failure(const char* what) {
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(g_seed), what);
    if (g_world != nullptr) {
        std::printf("  %s\nthe last events:\n", g_world->plan().describe().c_str());
        g_world->journal().print_last(stdout);
    }
    std::printf("to see it again: %s --seed %llu --trace\n", g_program.c_str(),
                static_cast<unsigned long long>(g_seed));
    std::fflush(stdout);
}

// An invariant of the engine is broken, or worse. The process has nothing to lose by printing.
void on_signal(int number) {
    print_failure(number == SIGABRT ? "an invariant is broken" : strsignal(number));
    std::signal(number, SIG_DFL);
    std::raise(number);
}

// False when something is wrong with it.
bool run_seed(std::uint64_t seed, const Options& options, Outcome& outcome) {
    g_seed = seed;
    g_world = nullptr;
    World world(seed);
    g_world = &world;
    if (options.trace) std::printf("%s\n", world.plan().describe().c_str());
    outcome = world.run(options.trace ? stdout : nullptr);
    if (!outcome.finding.empty()) print_failure(outcome.finding.c_str());
    if (options.hashes) {
        std::printf("seed %llu: %016llx\n", static_cast<unsigned long long>(seed),
                    static_cast<unsigned long long>(outcome.hash));
    }
    g_world = nullptr;
    return outcome.finding.empty();
}

// One process: seed after seed.
int work(const Options& options, Shared& shared, steady_clock::time_point deadline) {
    while (!shared.failed) {
        const std::uint64_t seed = shared.next++;
        const bool over = options.minutes > 0 ? steady_clock::now() >= deadline
                                              : seed >= options.first + options.seeds;
        if (over) break;
        Outcome outcome;
        if (!run_seed(seed, options, outcome)) {
            shared.failed = true;
            return 1;
        }
        ++shared.done;
        shared.requests += outcome.requests;
        shared.errors += outcome.errors;
    }
    std::fflush(stdout);
    return 0;
}

int run_many(const Options& options) {
    void* memory =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    Shared& shared = *new (memory) Shared{};
    shared.next = options.first;
    const auto begun = steady_clock::now();
    const auto deadline = begun + std::chrono::duration_cast<steady_clock::duration>(
                                      std::chrono::duration<double>(options.minutes * 60));
    std::fflush(stdout);
    std::vector<pid_t> children;
    for (unsigned i = 0; i < options.jobs; ++i) {
        const pid_t child = fork();
        if (child == 0) _exit(work(options, shared, deadline));
        if (child > 0) children.push_back(child);
    }
    bool failed = children.empty();
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        if (status == 0) continue;
        failed = true;
        shared.failed = true;
    }
    const double seconds = std::chrono::duration<double>(steady_clock::now() - begun).count();
    const auto done = static_cast<double>(shared.done);
    std::printf("%.0f seeds in %.1f s (%.0f a second), %llu requests, %llu of them failed: %s\n",
                done, seconds, done / seconds,
                static_cast<unsigned long long>(shared.requests.load()),
                static_cast<unsigned long long>(shared.errors.load()),
                failed ? "something is wrong" : "all is well");
    return failed ? 1 : 0;
}

int run_list(const Options& options) {
    std::ifstream file(options.list);
    unsigned count = 0;
    for (std::string line; std::getline(file, line);) {
        const std::uint64_t seed = std::strtoull(line.c_str(), nullptr, 10);
        if (seed == 0) continue;
        Outcome outcome;
        if (!run_seed(seed, options, outcome)) return 1;
        ++count;
    }
    if (count == 0) std::fprintf(stderr, "storm: no seeds in %s\n", options.list.c_str());
    std::printf("%u seeds of the list: all is well\n", count);
    return count == 0 ? 1 : 0;
}

[[noreturn]] void refuse(const std::string& what) {
    std::fprintf(stderr, "storm: %s\n%s", what.c_str(), kUsage);
    std::exit(2);
}

Options parse(int count, char** arguments) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--trace") {
            options.trace = true;
            continue;
        }
        if (name == "--hashes") {
            options.hashes = true;
            continue;
        }
        if (name == "--help") {
            std::fputs(kUsage, stdout);
            std::exit(0);
        }
        if (i + 1 >= count) refuse(name + ": unknown, or without its number");
        char* end = nullptr;
        const char* text = arguments[++i];
        if (name == "--list") {
            options.list = text;
            continue;
        }
        const double number = std::strtod(text, &end);
        if (*text == 0 || *end != 0 || number < 0) refuse(name + ": a number is missing");
        const auto whole = static_cast<std::uint64_t>(number);
        if (name == "--seed") {
            options.seed = std::strtoull(text, nullptr, 10);
        } else if (name == "--from") {
            options.first = std::strtoull(text, nullptr, 10);
        } else if (name == "--seeds") {
            options.seeds = whole;
        } else if (name == "--minutes") {
            options.minutes = number;
        } else if (name == "--jobs" && whole > 0 && whole <= 256) {
            options.jobs = static_cast<unsigned>(whole);
        } else {
            refuse(name + ": unknown, or out of range");
        }
    }
    return options;
}

}  // namespace

int main(int count, char** arguments) {
    g_program = arguments[0];
    const Options options = parse(count, arguments);
    for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
        std::signal(number, on_signal);
    }
    if (!options.list.empty()) return run_list(options);
    if (!options.seed) return run_many(options);
    Outcome outcome;
    const bool well = run_seed(*options.seed, options, outcome);
    if (well) {
        std::printf("seed %llu: all is well; %llu requests, %llu failed, %.3f ms, hash %016llx\n",
                    static_cast<unsigned long long>(*options.seed),
                    static_cast<unsigned long long>(outcome.requests),
                    static_cast<unsigned long long>(outcome.errors),
                    static_cast<double>(outcome.time) / 1e6,
                    static_cast<unsigned long long>(outcome.hash));
    }
    return well ? 0 : 1;
}
