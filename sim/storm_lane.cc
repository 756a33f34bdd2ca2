#include "sim/storm_lane.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "core/choices.h"
#include "sim/storm_calls.h"
#include "sim/storm_server.h"

namespace ashlar::sim {

namespace {

namespace abi = kernel::abi;

constexpr Instant kMillisecond = 1'000'000;
constexpr std::uint32_t kLength = 4096;
constexpr std::uint64_t kApart = 65536;

class ScenarioSession final : public Session {
public:
    explicit ScenarioSession(const std::atomic<int>& mode) : mode_(mode) {}
    Task<> serve(Io& io, const Request& request) override {
        if (mode_ != kHold) return answer(request);
        return hold(io, request);
    }

private:
    [[nodiscard]] IoResult answer(const Request& request) const {
        const int mode = mode_;
        return mode == kServe ? IoResult::bytes(request.length) : IoResult::from_errno(mode);
    }
    Task<> hold(Io& io, const Request& request) {
        while (mode_ == kHold) {
            const IoResult slept = co_await io.sleep(std::chrono::milliseconds(2));
            if (!slept.ok()) co_return slept;
        }
        co_return answer(request);
    }

    const std::atomic<int>& mode_;
};

class ScenarioBackend final : public Backend {
public:
    explicit ScenarioBackend(const std::atomic<int>& mode) : mode_(mode) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "scenario"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = 4 << 20}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::routes; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<ScenarioSession>(mode_);
    }

private:
    const std::atomic<int>& mode_;
};

class Model final : public Lane {
public:
    Model(const Scenario& scenario, std::uint64_t offered)
        : backend_(open_scenario_backend(mode_)),
          choice_(choose({.data_path = scenario.data_path,
                          .commands = scenario.commands,
                          .access = backend_->data_access(),
                          .recovery = scenario.recovery,
                          .offered = offered})
                      .value()),
          driver_(kernel_, {.features = choice_.features,
                            .offered = offered,
                            .depth = kScenarioDepth,
                            .io_max = kLength}),
          ioctl_((offered & abi::f_cmd_ioctl_encode) != 0) {
        simulated = &kernel_;
        static_cast<void>(begin_serving(false));
    }
    ~Model() override {
        kernel_.timeline.clear();
        for (auto& server : servers_) server->destroy();
        simulated = nullptr;
    }

    std::string carry_out(const Move& move) override {
        std::string said = perform(move);
        if (kernel_.journal.failed()) said += " FINDING: " + kernel_.journal.finding();
        return said;
    }

private:
    struct Asked {
        int answer = -1;
        bool told = false;
        bool gone = false;  // it began when there was no device any more
    };

    std::string perform(const Move& move) {
        switch (move.step) {
            case Step::hold: mode_ = kHold; return {};
            case Step::serve: mode_ = kServe; return {};
            case Step::fail: mode_ = move.value; return {};
            case Step::write: ask(abi::io_op_write); return {};
            case Step::read: ask(abi::io_op_read); return {};
            case Step::answers: return answers();
            case Step::kill: servers_.back()->kill(); return {};
            case Step::stop:
                if (stop_result_ < 0) driver_.stop_dev([this](int error) { stop_result_ = error; });
                return {};
            case Step::stopped:
                run_for(400 * kMillisecond);
                return stop_result_ < 0 ? "stop waits" : "stop: " + errno_name(stop_result_);
            case Step::quiesce: return quiesce();
            case Step::recover: return "recover: " + errno_name(begin_serving(true));
            case Step::state: return state();
        }
        return {};
    }

    void run_for(Instant time) {
        bool over = false;
        kernel_.timeline.after(time, [&over] { over = true; });
        while (!over) kernel_.timeline.run_next();
    }

    int begin_serving(bool recovering) {
        run_for(100 * kMillisecond);
        if (recovering) {
            if (const int code = driver_.start_recovery(); code != 0) return code;
        }
        const ServerOptions options{.choices = choice_.choices,
                                    .depth = kScenarioDepth,
                                    .io_max = kLength,
                                    .ioctl_commands = ioctl_};
        auto server = std::make_shared<Server>(kernel_, driver_, options, backend_, rings_);
        servers_.push_back(server);
        server->on_change = [at = server.get()] {
            if (at->closed() && !at->gone()) at->quit();
        };
        int result = -1;
        server->open([&, recovering](const std::optional<Error>& error) {
            if (error) {
                result = error->code;
                return;
            }
            const auto then = [&result](int code) { result = code; };
            recovering ? driver_.end_recovery(then) : driver_.start_dev(then);
        });
        run_for(100 * kMillisecond);
        return result;
    }

    void ask(std::uint8_t op) {
        auto request = std::make_shared<BlockRequest>();
        request->id = asked_.size() + 1;
        request->op = op;
        request->offset = kApart * asked_.size();
        request->length = kLength;
        request->data.resize(kLength);
        auto& asked = asked_.emplace_back(std::make_unique<Asked>());
        asked->gone = driver_.state() == abi::DevState::dead;
        request->done = [at = asked.get()](int error) { at->answer = error; };
        driver_.submit(request);
        run_for(20 * kMillisecond);
    }

    std::string answers() {
        run_for(400 * kMillisecond);
        std::string said = "answers:";
        for (std::size_t i = 0; i < asked_.size(); ++i) {
            Asked& asked = *asked_[i];
            if (asked.told) continue;
            said += " " + std::to_string(i + 1) + "=";
            asked.told = asked.answer >= 0;
            said += asked.gone ? "gone" : !asked.told ? "waits" : errno_name(asked.answer);
        }
        return said;
    }

    std::string quiesce() {
        int result = -1;
        driver_.quiesce_dev(300 * kMillisecond, [&result](int error) { result = error; });
        run_for(400 * kMillisecond);
        return "quiesce: " + errno_name(result);
    }

    std::string state() {
        run_for(400 * kMillisecond);
        switch (driver_.state()) {
            case abi::DevState::dead: return "state: dead";
            case abi::DevState::live: return "state: live";
            case abi::DevState::quiesced: return "state: quiesced";
            case abi::DevState::fail_io: return "state: fail_io";
        }
        return {};
    }

    std::atomic<int> mode_ = kServe;
    SimKernel kernel_{1};
    std::shared_ptr<Backend> backend_;
    Choice choice_;
    SimDriver driver_;
    std::vector<std::unique_ptr<SimReactor>> rings_;
    std::vector<std::shared_ptr<Server>> servers_;
    std::vector<std::unique_ptr<Asked>> asked_;
    int stop_result_ = -1;
    const bool ioctl_;
};

}  // namespace

std::shared_ptr<Backend> open_scenario_backend(const std::atomic<int>& mode) {
    return std::make_shared<ScenarioBackend>(mode);
}

std::unique_ptr<Lane> open_model(const Scenario& scenario, std::uint64_t offered) {
    return std::make_unique<Model>(scenario, offered);
}

std::string errno_name(int error) {
    if (error == 0) return "0";
    const char* name = error > 0 ? strerrorname_np(error) : nullptr;
    return name == nullptr ? std::to_string(error) : name;
}

}  // namespace ashlar::sim
