#include "cli/device_set.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <set>
#include <thread>
#include <utility>

#include <ashlar/control.h>
#include <ashlar/nbd.h>

#include "base/random.h"
#include "base/units.h"
#include "cli/in_use.h"
#include "cli/outside.h"
#include "cli/process.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

// At once; more do not help, for they wait for the same locks of the kernel.
constexpr std::size_t kWorkersMost = 4;
constexpr auto kAliveEvery = 100ms;
constexpr unsigned kEntries = 1024;
// Of a device: its character device, two of its control ring, the socket, and what its backend
// opens; beside them the process's own.
constexpr rlim_t kDescriptorsOfDevice = 6;
constexpr rlim_t kDescriptorsOfProcess = 128;

// Root may raise the hard limit too.
Result<void> raise_descriptor_limit(std::size_t devices) {
    const rlim_t needed = kDescriptorsOfProcess + devices * kDescriptorsOfDevice;
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return {};
    const rlimit more{.rlim_cur = std::max(needed, limit.rlim_cur),
                      .rlim_max = std::max(needed, limit.rlim_max)};
    if (setrlimit(RLIMIT_NOFILE, &more) == 0) return {};
    return std::unexpected(Error{
        .operation = "serve " + std::to_string(devices) + " devices",
        .code = EMFILE,
        .detail =
            fmt::format("they may need {} open files, and {} are allowed", needed, limit.rlim_max),
        .hint = "raise the hard limit (ulimit -Hn, LimitNOFILE=)"});
}

bool has_threads_of_its_own(const Declaration& declaration) {
    const DeviceOptions& device = declaration.job.device;
    return device.thread_count != 0 || device.polling || device.busy_poll.count() != 0;
}

}  // namespace

// ---- What there is -----------------------------------------------------------------------------

std::vector<DeviceSet::Left> DeviceSet::find_left() const {
    std::vector<Left> left;
    auto control = Control::open();
    const auto devices = control ? control->list() : std::vector<DeviceInfo>();
    if (!devices) return left;
    for (const DeviceInfo& info : *devices) {
        auto state = read_state(info.id, info.identity);
        if (state && state->declared_in == file_.path) left.push_back({info, std::move(*state)});
    }
    return left;
}

std::size_t DeviceSet::serving() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(members_, [](const auto& one) { return one->served.has_value(); }));
}

Member& DeviceSet::add(const Declaration& declaration) {
    members_.push_back(std::make_unique<Member>(Member{.declaration = declaration,
                                                       .log = log_.with_subject(declaration.name),
                                                       .number = next_number_++}));
    return *members_.back();
}

// On some threads; this one tells meanwhile that the process lives.
void DeviceSet::for_each(const std::vector<Member*>& members,
                         const std::function<void(Member&)>& call) {
    std::atomic<std::size_t> next = 0;
    std::atomic<std::size_t> done = 0;
    std::vector<std::jthread> workers;
    for (std::size_t i = 0; i < std::min(kWorkersMost, members.size()); ++i) {
        workers.emplace_back([&] {
            for (std::size_t at = next++; at < members.size(); at = next++) {
                call(*members[at]);
                done.fetch_add(1);
                done.notify_one();
            }
        });
    }
    auto told = std::chrono::steady_clock::now();
    for (std::size_t seen = 0; seen < members.size(); seen = done) {
        done.wait(seen);
        if (std::chrono::steady_clock::now() - told < kAliveEvery) continue;
        alive_();
        told = std::chrono::steady_clock::now();
    }
}

// ---- Coming to be ------------------------------------------------------------------------------

Result<std::unique_ptr<DeviceSet>> DeviceSet::start(const ServeFile& file, Log log, Alive alive) {
    std::unique_ptr<DeviceSet> set(new DeviceSet(file, std::move(log), std::move(alive)));
    for (const Left& left : set->find_left()) {
        const bool is_served = left.state.shared && left.info.state == DeviceState::live &&
                               left.state.pid != getpid() && is_alive(left.state.pid);
        if (!is_served) continue;
        return std::unexpected(Error{
            .operation = "serve " + file.path,
            .code = EBUSY,
            .detail = fmt::format("process {} serves it", left.state.pid),
            .hint = fmt::format("to have it read again, type 'kill -HUP {}'", left.state.pid)});
    }
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    // A network disk may come with a reload, when it is too late to load anything.
    static_cast<void>(load_nbd());
    set->protections_.before_backend();
    if (auto raised = raise_descriptor_limit(file.devices.size()); !raised) {
        return std::unexpected(raised.error());
    }
    set->ends_->descriptor = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!set->ends_->descriptor.valid()) {
        return std::unexpected(Error{.operation = "eventfd", .code = errno});
    }
    std::vector<Member*> fresh;
    fresh.reserve(file.devices.size());
    for (const Declaration& declaration : file.devices) fresh.push_back(&set->add(declaration));
    set->open_backends(fresh, true);
    std::vector<std::string> needed;
    for (const Member* member : fresh) {
        std::ranges::move(paths_to_reopen(member->declaration.job.spec),
                          std::back_inserter(needed));
    }
    set->protections_.after_backend(needed);
    const unsigned cpus = std::max(1U, std::thread::hardware_concurrency());
    auto threads = QueueThreads::create(
        {.count = file.threads != 0 ? file.threads : cpus, .entries = kEntries, .nice = file.nice});
    if (!threads) return std::unexpected(threads.error());
    set->threads_ = std::move(*threads);
    set->bring_up_all(fresh);
    set->remove_undeclared(file);
    return set;
}

void DeviceSet::open_backend(Member& member) {
    const ServerJob& job = member.declaration.job;
    if (member.backend != nullptr) return;
    auto backend = job.open_backend(
        [log = member.log](Level level, const std::string& message) { log.write(level, message); });
    if (backend) {
        member.backend = std::move(*backend);
    } else {
        member.log.write(Level::error, backend.error().message());
    }
}

// This process has left the mount namespace that it was started in, so later ones are opened where
// process 1 is.
void DeviceSet::open_backends(const std::vector<Member*>& members, bool at_start) {
    for (Member* member : members) {
        if (!has_program_of_its_own(member->declaration.job.spec)) continue;
        if (!at_start) {
            member->log.write(Level::error,
                              "the program that serves it is started with 'ashlar serve' only; "
                              "this needs a restart");
            continue;
        }
        auto started = member->held.start_programs(member->declaration.job);
        if (!started) member->log.write(Level::error, started.error().message());
        if (started) member->held.follow(member->log);
    }
    const auto open_all = [&] {
        for (Member* member : members) {
            if (!has_program_of_its_own(member->declaration.job.spec)) open_backend(*member);
            alive_();
        }
    };
    if (at_start) return open_all();
    std::jthread([&] {
        static_cast<void>(enter_first_namespace());
        open_all();
    });
}

void DeviceSet::bring_up_all(const std::vector<Member*>& members) {
    std::vector<Member*> ready;
    std::ranges::copy_if(members, std::back_inserter(ready),
                         [](const Member* one) { return one->backend != nullptr; });
    const auto all_left = find_left();
    const auto left_of = [&](const Member& member) -> std::optional<Left> {
        const auto found = std::ranges::find_if(all_left, [&](const Left& one) {
            return one.state.declared_as == member.declaration.name;
        });
        return found == all_left.end() ? std::nullopt : std::optional(*found);
    };
    // Numbers in the order of the file, however many threads there are.
    std::set<DeviceId> taken;
    if (auto control = Control::open()) {
        if (const auto devices = control->list()) {
            for (const DeviceInfo& info : *devices) taken.insert(info.id);
        }
    }
    for (const Member* one : ready) {
        if (one->declaration.job.device.id) taken.insert(*one->declaration.job.device.id);
    }
    DeviceId lowest = 0;
    struct Plan {
        std::optional<Left> left;
        bool id_is_chosen = false;
    };
    std::vector<std::pair<Member*, Plan>> plans;
    for (Member* one : ready) {
        Plan plan{.left = left_of(*one)};
        auto& id = one->declaration.job.device.id;
        if (!id && plan.left) id = plan.left->info.id;
        if (!id) {
            while (taken.contains(lowest)) ++lowest;
            id = lowest++;
            plan.id_is_chosen = true;
        }
        plans.emplace_back(one, std::move(plan));
    }
    for_each(ready, [&](Member& member) {
        const auto plan = std::ranges::find(plans, &member, &std::pair<Member*, Plan>::first);
        bring_up_one(member, plan->second.left, plan->second.id_is_chosen);
    });
}

// On any thread. What is left of a device that cannot be recovered goes. False: it stays.
bool DeviceSet::make_room(Member& member, const Left& left) {
    if (left.info.state == DeviceState::live && left.state.pid != getpid() &&
        is_alive(left.state.pid)) {
        member.log.write(Level::error,
                         fmt::format("process {} serves it as ublk{}; remove it there first",
                                     left.state.pid, left.info.id));
        return false;
    }
    auto control = Control::open();
    const auto removed =
        control ? control->remove(left.info.id) : Result<void>(std::unexpected(control.error()));
    if (!removed && removed.error().code != ENODEV) {
        member.log.write(Level::error, "cannot be made anew: " + removed.error().message());
        return false;
    }
    remove_state(left.info.id, left.state.identity);
    return true;
}

void DeviceSet::bring_up_one(Member& member, const std::optional<Left>& left, bool id_is_chosen) {
    ServerJob job = member.declaration.job;
    job.log_file = file_.log.starts_with('/') ? file_.log : "";
    const std::shared_ptr<Backend> backend = std::exchange(member.backend, nullptr);
    if (left && left->state.paused && left->state.pid == getpid()) {
        member.log.write(Level::warning,
                         fmt::format("it was stopped, and stays so; 'ashlar del {}' first to have "
                                     "it made anew",
                                     left->info.id));
        return;
    }
    const bool recovers = left && job.device.recovery != Recovery::none &&
                          (left->info.state != DeviceState::live || left->state.pid == getpid() ||
                           !is_alive(left->state.pid));
    if (recovers) job.recovered = left->state;
    if (left && !recovers && !make_room(member, *left)) return;
    job.device.identity = recovers ? left->info.identity : random_nonzero();
    if (!has_threads_of_its_own(member.declaration)) job.device.threads = threads_;
    job.device.on_end = [ends = ends_, number = member.number] {
        const std::lock_guard lock(ends->mutex);
        ends->numbers.push_back(number);
        const std::uint64_t one = 1;
        static_cast<void>(write(ends->descriptor.get(), &one, sizeof(one)) == sizeof(one));
    };
    auto served = bring_up_backend(job, backend, protections_);
    if (!served && id_is_chosen && served.error().code == EEXIST) {
        job.device.id.reset();  // somebody else has it meanwhile
        served = bring_up_backend(job, backend, protections_);
    }
    if (!served) return member.log.write(Level::error, served.error().message());
    member.served.emplace(std::move(*served));
    member.log.write(Level::info, fmt::format("{} {} at {}", recovers ? "recovered" : "serving",
                                              job.spec.type, member.served->device.block_path()));
}

// ---- Coming to an end --------------------------------------------------------------------------

bool DeviceSet::take_down(Member& member) {
    if (!member.served) return true;
    Device& device = member.served->device;
    const auto removed = device.remove();
    const bool gone = device.stage() == DeviceStage::removed;
    if (gone) remove_state(device.info().id, device.info().identity);
    member.log.write(removed ? Level::info : Level::error,
                     removed ? "removed" : removed.error().message());
    if (gone) member.served.reset();
    return gone;
}

bool DeviceSet::take_down_all(const std::function<bool(const Member&)>& chosen) {
    std::vector<Member*> serving;
    for (const auto& member : members_) {
        if (member->served && chosen(*member)) serving.push_back(member.get());
    }
    std::atomic<bool> all = true;
    for_each(serving, [&](Member& member) {
        if (!take_down(member)) all = false;
    });
    return all;
}

bool DeviceSet::remove_all() {
    return take_down_all([](const Member&) { return true; });
}

bool DeviceSet::abandon() {
    take_down_all([](const Member& member) {
        return member.declaration.job.device.recovery == Recovery::none;
    });
    // Their programs go too.
    std::erase_if(members_, [](const auto& member) { return !member->served; });
    return members_.empty();
}

bool DeviceSet::take_ended() {
    std::uint64_t count = 0;
    static_cast<void>(read(ends_->descriptor.get(), &count, sizeof(count)));
    std::vector<std::size_t> numbers;
    {
        const std::lock_guard lock(ends_->mutex);
        numbers.swap(ends_->numbers);
    }
    bool threads_stand = true;
    for (const std::size_t number : numbers) {
        const auto found = std::ranges::find(members_, number, &Member::number);
        if (found == members_.end() || !(*found)->served) continue;
        Member& member = **found;
        const auto outcome = member.served->device.wait();
        if (outcome) {
            member.log.write(Level::info, "stopped");
            take_down(member);
            continue;
        }
        member.log.write(Level::error, outcome.error().message());
        if (!has_threads_of_its_own(member.declaration)) threads_stand = false;
        if (member.declaration.job.device.recovery == Recovery::none) {
            take_down(member);
        } else {
            member.served->device.detach();
            member.log.write(Level::warning, "the device waits for another server");
            member.served.reset();
        }
    }
    return threads_stand;
}

void DeviceSet::answer(Member& member) {
    if (answer_client(member.declaration.job, *member.served, member.log) == Outcome::left) {
        member.served.reset();
    }
}

// ---- Another file ------------------------------------------------------------------------------

void DeviceSet::remove_undeclared(const ServeFile& file) {
    const auto is_declared = [&](const std::string& name) {
        return std::ranges::find(file.devices, name, &Declaration::name) != file.devices.end();
    };
    const auto may_go = [&](DeviceId id, const Log& log) {
        const auto user = file.force ? std::nullopt : who_uses_outside(id);
        if (user) {
            log.write(Level::warning,
                      fmt::format("no longer declared, but /dev/ublkb{} is {}; it stays until "
                                  "the file is read again, or says force = true",
                                  id, *user));
        }
        return !user;
    };
    std::erase_if(members_, [&](const std::unique_ptr<Member>& member) {
        if (is_declared(member->declaration.name)) return false;
        if (!member->served) return true;
        return may_go(member->served->device.info().id, member->log) && take_down(*member);
    });
    // What nobody serves, of earlier processes.
    for (const Left& left : find_left()) {
        const std::string& name = left.state.declared_as;
        if (is_declared(name) || is_alive(left.state.pid)) continue;
        const Log log = log_.with_subject(name);
        if (!may_go(left.info.id, log)) continue;
        auto control = Control::open();
        const auto removed = control ? control->remove(left.info.id)
                                     : Result<void>(std::unexpected(control.error()));
        if (removed) remove_state(left.info.id, left.state.identity);
        log.write(removed ? Level::info : Level::error,
                  removed ? "no longer declared; removed" : removed.error().message());
    }
}

// A disk that is declared larger grows; to shrink one is for somebody who looks at it.
void DeviceSet::follow_size(Member& member, const Declaration& now) {
    for (SpecOption& option : member.declaration.job.spec.options) {
        if (option.key != "size" && option.key != "length") continue;
        const auto declared = std::ranges::find(now.job.spec.options, option.key, &SpecOption::key);
        if (declared == now.job.spec.options.end() || !declared->value) continue;
        const auto wanted = parse_size(*declared->value);
        const std::uint64_t size = member.served->backend->geometry().size;
        const DeviceId id = member.served->device.info().id;
        if (wanted && *wanted < size) {
            member.log.write(Level::warning,
                             fmt::format("it has {} bytes and is declared smaller; that takes "
                                         "'ashlar resize {} {} --force'",
                                         size, id, *wanted));
        } else if (wanted && *wanted > size) {
            const auto grown =
                resize_served(member.declaration.job, *member.served, *wanted, member.log);
            if (!grown) member.log.write(Level::error, grown.error().message());
        }
        option.value = declared->value;
    }
}

// What of a device that serves can change without its end comes here.
void DeviceSet::compare(Member& member, const Declaration& now) {
    follow_size(member, now);
    const std::string changes = list_changes(member.declaration, now);
    if (changes.empty()) return;
    member.log.write(Level::warning,
                     fmt::format("{}: declared otherwise by now, which needs a restart; it serves "
                                 "as before",
                                 changes));
}

void DeviceSet::reload(const ServeFile& file) {
    if (file.threads != file_.threads || file.nice != file_.nice || file.log != file_.log) {
        log_.write(Level::warning, "[server]: another threads, nice or log needs a restart");
    }
    if (auto raised = raise_descriptor_limit(file.devices.size()); !raised) {
        log_.write(Level::error, "nothing is changed: " + raised.error().message());
        return;
    }
    file_.force = file.force;
    remove_undeclared(file);
    std::vector<Member*> fresh;
    for (const Declaration& declaration : file.devices) {
        const auto found = std::ranges::find_if(members_, [&](const auto& member) {
            return member->declaration.name == declaration.name;
        });
        if (found == members_.end()) {
            fresh.push_back(&add(declaration));
        } else if ((*found)->served) {
            compare(**found, declaration);
        } else {
            (*found)->declaration = declaration;
            fresh.push_back(found->get());
        }
    }
    open_backends(fresh, false);
    bring_up_all(fresh);
}

}  // namespace ashlar::cli
