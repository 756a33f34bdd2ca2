#include "sim/storm_world.h"

#include <cerrno>
#include <utility>

#include "sim/storm_calls.h"

namespace ashlar::sim {

namespace {

constexpr Instant kMicrosecond = 1'000;
constexpr Instant kMillisecond = 1'000'000;
constexpr Instant kPatience = 100 * kMillisecond;    // of those who stop or quiesce a device
constexpr Instant kLongest = 60'000 * kMillisecond;  // of a seed
constexpr std::uint64_t kEventsMost = 3'000'000;
constexpr std::size_t kServersMost = 60;

}  // namespace

World::~World() {
    kernel_.timeline.clear();
    for (auto& one : servers_) one->destroy();
    kernel_.timeline.clear();
    simulated = nullptr;
}

Outcome World::run(std::FILE* trace) {
    kernel_.journal.print_to(trace);
    client_->on_idle = [this] { client_is_idle(); };
    client_->on_lost = [this](const BlockRequest& request, int error) { lost(request, error); };
    start();
    client_->begin();
    if (plan_.files.stuck != 0) look_for_progress(client_->answers());
    std::uint64_t events = 0;
    while (!done_ && !kernel_.journal.failed()) {
        const bool more = kernel_.timeline.run_next();
        if (!more || ++events > kEventsMost || kernel_.timeline.now() > kLongest) {
            kernel_.journal.finding(std::string(more ? "it does not end: " : "it hangs: ") +
                                    driver_->describe() + "; " + server().describe());
        }
    }
    if (done_ && client_->waits()) kernel_.journal.finding("requests that were never answered");
    return {.finding = kernel_.journal.finding(),
            .hash = kernel_.journal.hash(),
            .time = kernel_.timeline.now(),
            .requests = client_->requests(),
            .errors = client_->errors()};
}

// ---- Servers, one after the other --------------------------------------------------------------

void World::start() {
    if (servers_.size() >= kServersMost) {
        return kernel_.journal.finding("server after server fails to start");
    }
    kernel_.journal.note("server", servers_.size());
    servers_.push_back(
        std::make_shared<Server>(kernel_, *driver_, server_options_, backend_, rings_));
    checked_ = false;
    cancelled_ = false;
    given_up_ = false;
    Server* const mine = servers_.back().get();
    mine->on_change = [this, mine] {
        if (mine == servers_.back().get()) server_changed();
    };
    const bool recovering = driver_->state() != kernel::abi::DevState::dead;
    if (recovering && driver_->start_recovery() != 0) {
        return kernel_.journal.finding("a device without a server cannot be recovered");
    }
    mine->open([this, mine, recovering](const std::optional<Error>& error) {
        if (error) return mine->quit();
        const auto then = [this, mine](int code) {
            if (mine == servers_.back().get()) started(code);
        };
        recovering ? driver_->end_recovery(then) : driver_->start_dev(then);
    });
    // Servers die early, too.
    if (plan_.interrupted && kernel_.random.chance(100)) {
        bound(kernel_.random.below(200 * kMicrosecond), [this, mine] {
            clean_ = false;
            mine->kill();
        });
    }
}

void World::started(int error) {
    if (error != 0) {
        if (error != EINTR && !last_stop_ && !server().failed()) {
            kernel_.journal.finding("the device does not start: errno " + std::to_string(error));
        }
        return;
    }
    live_ = true;
    // Those that were refused just now have not been told yet.
    bound(1, [this] { disk_gone_ = false; });
    bound(kernel_.random.below(3 * kMillisecond), [this] { next_act(); });
}

// Something of the present server has come to an end.
void World::server_changed() {
    if (server().closed() && !server().gone()) {
        check_leaks();
        server().quit();
    }
    if (!live_) driver_->interrupt();
    if (!server().gone()) return;
    if (driver_->is_open()) {
        bound(200 * kMicrosecond, [this] { server_changed(); });
        return;
    }
    next_server();
}

void World::next_server() {
    ++phase_;
    live_ = false;
    acting_ = false;
    disk_gone_ |= plan_.recovery == Recovery::none || plan_.recovery == Recovery::fail;
    clean_ &= !server().failed();
    reference_->settle();
    kernel_.errors.clear();
    kernel_.files_hang = false;
    if (std::exchange(power_cut_, false)) {
        kernel_.journal.note("power cut");
        kernel_.files.cut_power(kernel_.random);
        reference_->lose(client_->changes_in_flight());
        if (plan_.storage != Storage::memory) backend_ = open_storage();
    }
    for (auto& queue : seen_) queue.assign(queue.size(), Seen{});
    if (last_stop_) return look_whether_done();
    bound(kernel_.random.below(kMillisecond), [this] { start(); });
}

// Every queue came home: nothing of them is left on the rings.
void World::check_leaks() {
    if (server().failed() || !acting_ || !clean_ || std::exchange(checked_, true)) return;
    if (driver_->state() != kernel::abi::DevState::dead) return;
    const std::string leaks = server().leaks();
    if (!leaks.empty()) kernel_.journal.finding("a stopped queue leaves behind:" + leaks);
}

// The call is made if the same server is there then.
void World::bound(Instant time, std::function<void()> call) {
    kernel_.timeline.after(time, [this, phase = phase_, call = std::move(call)] {
        if (phase == phase_) call();
    });
}

// ---- What happens to them ----------------------------------------------------------------------

void World::next_act() {
    if (acting_ || !live_ || finishing_) return;
    if (acts_done_ == plan_.acts.size()) return client_is_idle();
    const Act what = plan_.acts[acts_done_++];
    const bool waits = what == Act::quiesce || what == Act::stop;
    if (!waits || !kernel_.random.chance(150)) return act(what);
    // It waits for requests that end only when they are cancelled.
    kernel_.files_hang = true;
    acting_ = true;
    bound(kernel_.random.below(300 * kMicrosecond), [this, what] { act(what); });
}

void World::act(Act what) {
    kernel_.journal.note(name(what));
    acting_ = true;
    Server* const mine = servers_.back().get();
    clean_ = !mine->killed();
    switch (what) {
        case Act::cut_power: power_cut_ = true; [[fallthrough]];
        case Act::kill: mine->kill(); break;
        case Act::break_down:
            mine->break_down(static_cast<unsigned>(kernel_.random.below(8)), ENOMEM);
            break;
        case Act::quiesce: quiesce(); break;
        case Act::stop: stop(false); break;
    }
    if (plan_.interrupted && kernel_.random.chance(500)) {
        bound(kernel_.random.below(400 * kMicrosecond), [this, mine] {
            clean_ = false;
            power_cut_ |= kernel_.random.chance(500);
            mine->kill();
        });
    }
}

// As Device::quiesce does.
void World::quiesce() {
    const bool reissue = plan_.recovery == Recovery::reissue;
    const bool queue = plan_.recovery == Recovery::queue &&
                       (plan_.offered & kernel::abi::f_quiesce) != 0 &&
                       plan_.commands != CommandStyle::batch;
    if (!reissue && !queue) return stop(false);
    Server* const mine = servers_.back().get();
    const auto leave = [this, mine, reissue](int error) {
        if (mine != servers_.back().get()) return;
        if (error != 0) return give_up();
        mine->leave(reissue ? Leaving::holding : Leaving::serving);
    };
    if (reissue) {
        leave(0);
    } else {
        driver_->quiesce_dev(kPatience / 4, [this, mine, leave](int error) {
            if (error != EBUSY || mine != servers_.back().get()) return leave(error);
            cancel_requests();
            driver_->quiesce_dev(kPatience / 4, leave);
        });
    }
    bound(kPatience, [this] { cancel_requests(); });
    bound(2 * kPatience, [this] { abandon("a server does not leave a quiesced device"); });
}

// As Device::stop does.
void World::stop(bool last) {
    acting_ = true;
    last_stop_ |= last;
    disk_gone_ = true;
    driver_->stop_dev([this, last](int) {
        stopped_ |= last;
        look_whether_done();
    });
    bound(kPatience, [this] { cancel_requests(); });
    bound(2 * kPatience, [this] { abandon("a device does not stop"); });
}

// The storage has had its time.
void World::cancel_requests() {
    cancelled_ = true;
    server().cancel_requests();
}

void World::give_up() {
    clean_ = false;
    given_up_ = true;
    server().quit();
}

// All that a server of ours waits for can be cancelled: nothing excuses one that is not done now.
void World::abandon(const char* what) {
    if (!server().killed() && !server().failed() && !given_up_) {
        kernel_.journal.finding(std::string(what) + ": " + driver_->describe() + "; " +
                                server().describe());
    }
    give_up();
}

// Only cancelling ends what the storage never does.
void World::look_for_progress(std::uint64_t answers) {
    kernel_.timeline.after(5 * kPatience, [this, answers] {
        if (client_->answers() != answers || !live_ || acting_) {
            return look_for_progress(client_->answers());
        }
        finishing_ = true;
        stop(true);
    });
}

void World::client_is_idle() {
    if (!client_->idle() || acts_done_ < plan_.acts.size() || !live_ || acting_) return;
    if (std::exchange(finishing_, true)) return;
    client_->verify([this] {
        clean_ = !server().killed();
        stop(true);
    });
}

void World::look_whether_done() {
    if (!stopped_ || !server().gone() || driver_->is_open()) return;
    if (driver_->state() != kernel::abi::DevState::dead) {
        kernel_.journal.finding("a stopped device is not dead");
    }
    if (sessions_ != 0) kernel_.journal.finding("a session outlives its server");
    // The last requests that failed with it have not been told yet.
    kernel_.timeline.after(1, [this] { done_ = true; });
}

}  // namespace ashlar::sim
