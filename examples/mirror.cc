// A disk on two files at once: each write goes to both, a read to the second if the first fails.
//
//     mirror FILE1 FILE2 [RATE]     RATE, 0 to 1: so many of FILE1's reads fail, on purpose
//
// A write that one half refused is an error, though the other has it. Not done here: to remember
// which half is the better one from then on, and to write it anew.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include <ashlar/ashlar.h>

using namespace ashlar;

struct Half {
    std::unique_ptr<Session> session;
    bool flushes = false;  // has a volatile cache
};

class MirrorSession final : public Session {
public:
    MirrorSession(Half first, Half second) : first_(std::move(first)), second_(std::move(second)) {}

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read: return read(io, request);
            case Op::write:
            case Op::flush: return serve_by_both(io, request);
            default: return IoResult(std::errc::operation_not_supported);
        }
    }
    void cancel_requests() noexcept override {
        first_.session->cancel_requests();
        second_.session->cancel_requests();
    }
    void close() noexcept override {
        first_.session->close();
        second_.session->close();
    }

private:
    Task<> read(Io& io, const Request& request) {
        const IoResult result = co_await start(first_, io, request);
        if (result.ok()) co_return result;
        co_return co_await start(second_, io, request);
    }

    // Tasks start at once, so the second is under way before the first is awaited. Both are
    // awaited, whatever comes of the first: a task may go only when it is done.
    Task<> serve_by_both(Io& io, const Request& request) {
        std::array<Task<>, 2> tasks;
        tasks[0] = start(first_, io, request);
        tasks[1] = start(second_, io, request);
        IoResult result;
        for (auto& task : tasks) {
            const IoResult half = co_await task;
            if (result.ok()) result = half;
        }
        co_return result;
    }

    static Task<> start(Half& half, Io& io, const Request& request) {
        if (request.op == Op::flush && !half.flushes) return IoResult{};
        return half.session->serve(io, request);
    }

    Half first_, second_;
};

class Mirror final : public Backend {
public:
    Mirror(std::shared_ptr<Backend> first, std::shared_ptr<Backend> second)
        : first_(std::move(first)), second_(std::move(second)) {}

    std::string_view name() const noexcept override { return "mirror"; }
    // What suits both: the larger block, the tighter limit (0 is none).
    Geometry geometry() const override {
        const Geometry a = first_->geometry();
        const Geometry b = second_->geometry();
        const auto tighter = [](auto x, auto y) { return x == 0 || (y != 0 && y < x) ? y : x; };
        const std::uint32_t block = std::max(a.logical_block_size, b.logical_block_size);
        return {.size = std::min(a.size, b.size) / block * block,
                .logical_block_size = block,
                .physical_block_size = std::max(a.physical_block_size, b.physical_block_size),
                .chunk = std::gcd(a.chunk, b.chunk),
                .dma_alignment = std::max(a.dma_alignment, b.dma_alignment),
                .segment_max = tighter(a.segment_max, b.segment_max),
                .segments_max = tighter(a.segments_max, b.segments_max),
                .segment_boundary = tighter(a.segment_boundary, b.segment_boundary)};
    }
    Capabilities capabilities() const override {
        const Capabilities a = first_->capabilities();
        const Capabilities b = second_->capabilities();
        return {.flush = a.flush || b.flush,
                .fua = a.fua && b.fua,
                .read_only = a.read_only || b.read_only};
    }
    DataAccess data_access() const noexcept override {
        const bool both_route = first_->data_access() == DataAccess::routes &&
                                second_->data_access() == DataAccess::routes;
        return both_route ? DataAccess::routes : DataAccess::sees;
    }
    Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto first = first_->open_session(io);
        if (!first) return std::unexpected(first.error());
        auto second = second_->open_session(io);
        if (!second) return std::unexpected(second.error());
        return std::make_unique<MirrorSession>(
            Half{std::move(*first), first_->capabilities().flush},
            Half{std::move(*second), second_->capabilities().flush});
    }

private:
    const std::shared_ptr<Backend> first_, second_;
};

int fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int main(int count, char** words) {
    if (count != 3 && count != 4) {
        std::fprintf(stderr, "usage: mirror FILE1 FILE2 [RATE]\n");
        return 2;
    }
    auto first = open_file({.path = words[1]});
    if (!first) return fail(first.error());
    auto second = open_file({.path = words[2]});
    if (!second) return fail(second.error());
    if (count == 4) {
        const Fault fault{.operations = {Op::read}, .rate = std::strtod(words[3], nullptr)};
        first = open_fault(*first, {.faults = {fault}});
        if (!first) return fail(first.error());
    }
    auto device = Device::create(std::make_shared<Mirror>(*first, *second));
    if (!device) return fail(device.error());
    if (auto started = device->start(); !started) return fail(started.error());
    std::printf("%s\n", device->block_path().c_str());
    std::fflush(stdout);
    const auto served = device->wait();  // until somebody removes it: ashlar del N
    return served ? 0 : fail(served.error());
}
