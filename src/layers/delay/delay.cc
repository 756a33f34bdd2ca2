// The delay layer: a request sleeps on the queue's ring, then goes on. A sleep is an operation like
// any other, so requests overlap as they would on a slow disk.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include <ashlar/backends.h>

#include "base/assert.h"
#include "layers/plain.h"

namespace ashlar {
namespace {

using std::chrono::nanoseconds;

constexpr nanoseconds kLatencyMax = std::chrono::hours(1);

const Latency* latency_of(const DelayOptions& options, Op op) noexcept {
    switch (op) {
        case Op::read: return &options.read;
        case Op::write: return &options.write;
        case Op::flush: return &options.flush;
        case Op::discard: return &options.discard;
        case Op::write_zeroes: return &options.write_zeroes;
        default: return nullptr;
    }
}

class DelaySession final : public Session {
public:
    DelaySession(const DelayOptions& options, std::uint64_t seed, std::unique_ptr<Session> inner)
        : options_(options), random_(seed), inner_(std::move(inner)) {}

    Task<> serve(Io& io, const Request& request) override {
        const Latency* latency = latency_of(options_, request.op);
        const nanoseconds time = latency == nullptr ? nanoseconds(0) : draw(*latency);
        if (time <= nanoseconds(0)) return inner_->serve(io, request);
        return serve_later(io, request, time);
    }

    void cancel_requests() noexcept override { inner_->cancel_requests(); }
    void close() noexcept override { inner_->close(); }

private:
    // Negative, which normal may give, is none.
    nanoseconds draw(const Latency& latency) {
        const auto mean = static_cast<double>(latency.mean.count());
        const auto spread = static_cast<double>(latency.spread.count());
        double time = mean;
        switch (latency.shape) {
            case Latency::Shape::fixed: return latency.mean;
            case Latency::Shape::uniform: time += spread * (2 * uniform_(random_) - 1); break;
            case Latency::Shape::normal: time += spread * normal_(random_); break;
            case Latency::Shape::exponential: time *= exponential_(random_); break;
        }
        return nanoseconds(static_cast<nanoseconds::rep>(time));
    }

    Task<> serve_later(Io& io, const Request& request, nanoseconds time) {
        const IoResult slept = co_await io.sleep(time);
        if (!slept.ok()) co_return slept;
        co_return co_await inner_->serve(io, request);
    }

    const DelayOptions& options_;
    std::mt19937_64 random_;
    std::uniform_real_distribution<double> uniform_{0, 1};
    std::normal_distribution<double> normal_{0, 1};
    std::exponential_distribution<double> exponential_{1};
    const std::unique_ptr<Session> inner_;
};

class Delay final : public Backend {
public:
    Delay(std::shared_ptr<Backend> inner, const DelayOptions& options)
        : inner_(std::move(inner)), options_(options) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "delay"; }
    [[nodiscard]] Geometry geometry() const override { return inner_->geometry(); }
    [[nodiscard]] std::string identity() const override { return inner_->identity(); }
    [[nodiscard]] std::vector<BackendCounter> counters() const override {
        return inner_->counters();
    }
    [[nodiscard]] Capabilities capabilities() const override { return inner_->capabilities(); }
    [[nodiscard]] Result<void> resize(std::uint64_t size) override { return inner_->resize(size); }
    [[nodiscard]] std::uint32_t copied_write_max() const noexcept override {
        return inner_->copied_write_max();
    }
    [[nodiscard]] unsigned best_threads() const noexcept override { return inner_->best_threads(); }
    [[nodiscard]] unsigned sessions_max() const noexcept override { return inner_->sessions_max(); }
    [[nodiscard]] DataAccess data_access() const noexcept override {
        // Not holds: the engine would take the data from there, and nothing would be delayed.
        return inner_->data_access() == DataAccess::routes ? DataAccess::routes : DataAccess::sees;
    }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto session = inner_->open_session(io);
        if (!session) return std::unexpected(session.error());
        const std::uint64_t number = sessions_.fetch_add(1, std::memory_order_relaxed);
        return std::make_unique<DelaySession>(options_, options_.seed + number,
                                              std::move(*session));
    }

private:
    const std::shared_ptr<Backend> inner_;
    const DelayOptions options_;
    std::atomic<std::uint64_t> sessions_ = 0;  // opened so far; no two draw the same
};

Result<void> check_latency(std::string_view operation, const Latency& latency) {
    const auto refuse = [&](std::string_view what, nanoseconds value, std::string_view allowed) {
        return std::unexpected(Error{.operation = "open delay layer",
                                     .code = EINVAL,
                                     .detail = std::string(operation) + ": " + std::string(what) +
                                               " is " + std::to_string(value.count()) + " ns; " +
                                               std::string(allowed)});
    };
    if (latency.mean < nanoseconds(0) || latency.mean > kLatencyMax) {
        return refuse("mean", latency.mean, "allowed are 0 to 3600000000000 (an hour)");
    }
    if (latency.spread < nanoseconds(0) || latency.spread > kLatencyMax) {
        return refuse("spread", latency.spread, "allowed are 0 to 3600000000000 (an hour)");
    }
    switch (latency.shape) {
        case Latency::Shape::fixed:
        case Latency::Shape::exponential:
            if (latency.spread == nanoseconds(0)) break;
            return refuse("spread", latency.spread, "only uniform and normal have one");
        case Latency::Shape::uniform:
            if (latency.spread <= latency.mean) break;
            return refuse("spread", latency.spread, "uniform allows at most the mean");
        case Latency::Shape::normal: break;
    }
    return {};
}

}  // namespace

Result<std::shared_ptr<Backend>> open_delay(std::shared_ptr<Backend> inner,
                                            const DelayOptions& options) {
    ASHLAR_ASSERT(inner != nullptr);
    if (auto plain = layers::require_plain(*inner, "open delay layer"); !plain) {
        return std::unexpected(plain.error());
    }
    for (const Op op : {Op::read, Op::write, Op::flush, Op::discard, Op::write_zeroes}) {
        if (auto valid = check_latency(name(op), *latency_of(options, op)); !valid) {
            return std::unexpected(valid.error());
        }
    }
    return std::make_shared<Delay>(std::move(inner), options);
}

}  // namespace ashlar
