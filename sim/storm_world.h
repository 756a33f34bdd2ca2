// World: one seed from beginning to end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ashlar/backend.h>

#include "core/choices.h"
#include "sim/reference.h"
#include "sim/sim_driver.h"
#include "sim/storm_client.h"
#include "sim/storm_disk.h"
#include "sim/storm_plan.h"
#include "sim/storm_server.h"

namespace ashlar::sim {

struct Outcome {
    std::string finding;  // empty: all is well
    std::uint64_t hash = 0;
    Instant time = 0;
    std::uint64_t requests = 0;
    std::uint64_t errors = 0;
};

class World final : private Watcher {
public:
    explicit World(std::uint64_t seed);
    World(const World&) = delete;
    World& operator=(const World&) = delete;
    ~World();

    // Once. trace: where every event is printed; null for nowhere.
    Outcome run(std::FILE* trace);
    [[nodiscard]] const Plan& plan() const noexcept { return plan_; }
    [[nodiscard]] const Journal& journal() const noexcept { return kernel_.journal; }

private:
    // What the sessions did with the request that a tag has.
    struct Seen {
        const BlockRequest* request = nullptr;  // null: none, or answered
        bool serving = false;
        bool served = false;
        bool located = false;
        IoResult result{};
        bool flushing = false;
        bool flushed = false;
        IoResult flush_result{};
        std::vector<int> causes{};  // errors of the disks underneath
    };

    void session_opened() override;
    void session_ended(bool closed) override;
    void serving(const Request& request) override;
    void served(const Request& request, IoResult result) override;
    void located(const Request& request) override;
    void failed(const Request& request, int error) override;
    [[nodiscard]] bool has_cause(const Seen& of, const Request& request, int error);
    Seen* seen(const Request& request);
    void delivered(const BlockRequest& request);
    [[nodiscard]] bool may_lose() const;
    [[nodiscard]] bool may_cut_short() const;
    void lost(const BlockRequest& request, int error);
    void answered(const BlockRequest& request, std::int32_t result, int injected);
    [[nodiscard]] std::string judge(const Seen& of, const BlockRequest& request,
                                    std::int32_t result, int injected) const;
    void finding(const std::string& what, const BlockRequest& request);

    [[nodiscard]] Choice choose_ways();
    void make_driver(const Choice& choice);
    void make_files();
    [[nodiscard]] std::shared_ptr<Backend> open_storage();
    std::shared_ptr<Backend> open_file_disk(std::size_t member);

    void start();
    void started(int error);
    void server_changed();
    void next_server();
    void next_act();
    void act(Act what);
    void bound(Instant time, std::function<void()> call);
    void quiesce();
    void stop(bool last);
    void cancel_requests();
    void give_up();
    void abandon(const char* what);
    void client_is_idle();
    void look_for_progress(std::uint64_t answers);
    void check_leaks();
    void look_whether_done();
    [[nodiscard]] Server& server() { return *servers_.back(); }

    SimKernel kernel_;
    Plan plan_;
    std::vector<std::unique_ptr<SimReactor>> rings_;
    std::vector<int> files_;
    std::shared_ptr<Backend> backend_;
    Capabilities capabilities_{};
    ServerOptions server_options_{};
    bool power_cut_ = false;
    std::unique_ptr<SimDriver> driver_;
    std::unique_ptr<Reference> reference_;
    std::unique_ptr<Client> client_;
    std::vector<std::vector<Seen>> seen_;           // by queue and tag
    std::vector<std::shared_ptr<Server>> servers_;  // the last one is now's
    std::size_t acts_done_ = 0;
    std::uint64_t phase_ = 0;  // grows when the server ends
    bool live_ = false;
    bool acting_ = false;
    bool checked_ = false;    // this server's leaks
    bool clean_ = true;       // nothing has cut the act short
    bool disk_gone_ = true;   // not started yet, asked to stop, or to fail without a server
    bool cancelled_ = false;  // what this server's requests wait for
    bool given_up_ = false;   // this server was ended before it was done
    unsigned sessions_ = 0;   // of all servers
    bool finishing_ = false;
    bool last_stop_ = false;
    bool stopped_ = false;
    bool done_ = false;
};

}  // namespace ashlar::sim
