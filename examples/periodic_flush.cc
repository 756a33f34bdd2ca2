// A layer: wraps any backend and flushes it once a second of its own accord, so that a power cut
// takes little even from programs that never ask for a flush. Here it wraps a file.
//
//     periodic_flush FILE
#include <chrono>
#include <cstdio>

#include <ashlar/ashlar.h>

using namespace ashlar;

class FlushingSession final : public Session {
public:
    FlushingSession(std::unique_ptr<Session> inner, Io& io)
        : inner_(std::move(inner)), flushing_(flush_periodically(io)) {}

    Task<> serve(Io& io, const Request& request) override {
        // What failed behind the caller's back is told to the next who asks.
        if (request.op == Op::flush && !failed_.ok()) return std::exchange(failed_, IoResult{});
        return inner_->serve(io, request);
    }
    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    // Outside of any request, hence on the session's own Io. The device's stop cancels it.
    Task<> flush_periodically(Io& io) {
        const Request flush{.op = Op::flush};  // inner uses it until its task is done
        while (true) {
            const IoResult slept = co_await io.sleep(std::chrono::seconds(1));
            if (!slept.ok()) co_return slept;
            const IoResult flushed = co_await inner_->serve(io, flush);
            if (!flushed.ok()) failed_ = flushed;
        }
    }

    const std::unique_ptr<Session> inner_;
    IoResult failed_;
    Task<> flushing_;  // the last: it starts at once and uses what is above
};

class PeriodicFlush final : public Backend {
public:
    explicit PeriodicFlush(std::shared_ptr<Backend> inner) : inner_(std::move(inner)) {}

    std::string_view name() const noexcept override { return "periodic_flush"; }
    Geometry geometry() const override { return inner_->geometry(); }
    Capabilities capabilities() const override { return inner_->capabilities(); }
    unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    DataAccess data_access() const noexcept override {
        // Not holds: it hands serve() on, and locates nothing itself.
        const bool routes = inner_->data_access() == DataAccess::routes;
        return routes ? DataAccess::routes : DataAccess::sees;
    }
    Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto session = inner_->open_session(io);
        if (!session || !inner_->capabilities().flush) return session;  // nothing to flush
        return std::make_unique<FlushingSession>(std::move(*session), io);
    }

private:
    const std::shared_ptr<Backend> inner_;
};

int fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int main(int count, char** words) {
    if (count != 2) {
        std::fprintf(stderr, "usage: periodic_flush FILE\n");
        return 2;
    }
    auto file = open_file({.path = words[1]});
    if (!file) return fail(file.error());
    auto device = Device::create(std::make_shared<PeriodicFlush>(*file));
    if (!device) return fail(device.error());
    if (auto started = device->start(); !started) return fail(started.error());
    std::printf("%s\n", device->block_path().c_str());
    std::fflush(stdout);
    const auto served = device->wait();  // until somebody removes it: ashlar del N
    return served ? 0 : fail(served.error());
}
