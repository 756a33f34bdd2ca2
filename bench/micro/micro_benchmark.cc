// What the parts of a request's way cost: make micro-bench.
#include <benchmark/benchmark.h>
#include <coroutine>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "core/io_scope.h"
#include "core/live_metrics.h"
#include "core/offload.h"
#include "kernel/codec.h"
#include "pretend_kernel.h"

namespace ashlar::bench {
namespace {

void decode(benchmark::State& state) {
    const auto descriptor = test::make_descriptor(kernel::abi::io_op_read, 4096, 8);
    Request request;
    for (auto _ : state) {
        benchmark::DoNotOptimize(kernel::decode_request(descriptor, 0, 7, request));
        benchmark::DoNotOptimize(request);
    }
}
BENCHMARK(decode);

void encode_command(benchmark::State& state) {
    std::uint16_t tag = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(kernel::make_io_cmd(0, ++tag, 4096, 0x1000));
        benchmark::DoNotOptimize(kernel::encode_auto_buf_reg(tag, true));
    }
}
BENCHMARK(encode_command);

void count_a_request(benchmark::State& state) {
    const auto metrics = std::make_unique<LiveMetrics>(true);
    Request request{};
    request.op = Op::read;
    request.length = 4096;
    std::uint64_t round = 0;
    for (auto _ : state) {
        metrics->begun();
        const auto begun = metrics->times()->begin(++round / 64);
        metrics->answered(request, false);
        metrics->times()->answered(request, begun);
        benchmark::ClobberMemory();
    }
}
BENCHMARK(count_a_request);

void add_to_a_histogram(benchmark::State& state) {
    std::vector<std::byte> zeroes(sizeof(LiveHistogram));
    auto* const histogram = reinterpret_cast<LiveHistogram*>(zeroes.data());
    std::uint64_t value = 1;
    for (auto _ : state) {
        histogram->add(value & 0xfffff);
        value = value * 6364136223846793005 + 1442695040888963407;
    }
}
BENCHMARK(add_to_a_histogram);

// Fetched, decoded, served by a session that is done at once, committed: batches of so many.
void serve(benchmark::State& state) {
    Rounds rounds({.batch = static_cast<unsigned>(state.range(0)), .timed = state.range(1) != 0});
    for (auto _ : state) rounds.run(1);
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(serve)->ArgNames({"batch", "timed"})->ArgsProduct({{1, 16, 64}, {0, 1}});

struct Later {
    std::coroutine_handle<>& waiter;
    static bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { waiter = handle; }
    static void await_resume() noexcept {}
};
Task<> wait_once(Io&, std::coroutine_handle<>& waiter) {
    co_await Later{waiter};
    co_return IoResult::bytes(4096);
}
Task<> wait_within(Io& io, std::coroutine_handle<>& waiter) {
    const IoResult result = co_await wait_once(io, waiter);
    co_return result;
}

// Two coroutines deep, with frames in an arena, suspended once and resumed.
void resume_a_coroutine(benchmark::State& state) {
    auto reactor = open_uring_reactor({.entries = 8});
    if (!reactor) return state.SkipWithError("no io_uring here");
    OffloadPool offload;
    IoScope scope(**reactor, offload);
    alignas(64) static std::byte memory[8192];
    Arena arena(memory, sizeof(memory));
    Io io(arena, scope);
    std::coroutine_handle<> waiter;
    for (auto _ : state) {
        Task<> task = wait_within(io, waiter);
        waiter.resume();
        benchmark::DoNotOptimize(task.result());
    }
}
BENCHMARK(resume_a_coroutine);

}  // namespace
}  // namespace ashlar::bench

BENCHMARK_MAIN();
