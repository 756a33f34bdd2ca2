// How long it takes until a device is there: by the library, and by the bare commands, in turn.
// start_time [QUEUES [DEPTH [TIMES]]]; needs the driver and root: make vm-start-time.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include <ashlar/ashlar.h>

#include "bare_device.h"

namespace {

using namespace ashlar;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point begun) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

template <class T>
T check(Result<T> result) {
    if (result) return std::move(*result);
    std::fprintf(stderr, "%s\n", result.error().message().c_str());
    std::exit(1);
}

double library(std::uint16_t queues, std::uint16_t depth) {
    const auto begun = Clock::now();
    auto backend = check(open_null({.geometry = {.size = std::uint64_t{64} << 20}}));
    auto device =
        check(Device::create(backend, {.queues = queues, .depth = depth, .measure = true}));
    if (auto started = device.start(); !started) {
        std::fprintf(stderr, "%s\n", started.error().message().c_str());
        std::exit(1);
    }
    return since(begun);
}

std::pair<double, unsigned> bare(std::uint16_t queues, std::uint16_t depth) {
    const auto begun = Clock::now();
    const bench::BareDevice device(queues, depth);
    return {since(begun), device.queues()};
}

void print(const char* what, std::vector<double>& times) {
    std::ranges::sort(times);
    std::printf("%-14s median %6.2f ms, of %zu from %.2f to %.2f\n", what, times[times.size() / 2],
                times.size(), times.front(), times.back());
}

std::uint16_t number(int count, char** words, int at, std::uint16_t otherwise) {
    if (at >= count) return otherwise;
    const std::string_view text = words[at];
    std::uint16_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc{} && end == text.data() + text.size() && value != 0) return value;
    std::fprintf(stderr, "usage: start_time [QUEUES [DEPTH [TIMES]]]\n");
    std::exit(2);
}

}  // namespace

int main(int count, char** words) {
    const std::uint16_t queues = number(count, words, 1, 4);
    const std::uint16_t depth = number(count, words, 2, 128);
    const std::uint16_t times = number(count, words, 3, 15);
    std::vector<double> bares;
    std::vector<double> libraries;
    unsigned given = 0;
    for (unsigned i = 0; i < times; ++i) {
        const auto [took, has] = bare(queues, depth);
        bares.push_back(took);
        libraries.push_back(library(queues, depth));
        given = has;
    }
    std::printf("%u queues of depth %u\n", given, unsigned{depth});
    print("bare commands", bares);
    print("library", libraries);
    std::printf("ratio %.2f\n", libraries[times / 2] / bares[times / 2]);
    return 0;
}
