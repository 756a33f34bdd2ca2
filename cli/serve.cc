// ashlar serve FILE: the devices that a file declares, in one process.
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/thread_scheduling.h"
#include "cli/command.h"
#include "cli/device_set.h"
#include "cli/notify.h"
#include "cli/serve_file.h"
#include "cli/server_state.h"
#include "cli/signals.h"

namespace ashlar::cli {
namespace {

struct ServeOptions {
    std::string file;
    bool check = false;
};

// Held as long as the process lives: two at once would make every device twice.
Result<Fd> claim(const std::string& path) {
    if (auto made = make_state_directory(); !made) return std::unexpected(made.error());
    auto lock = lock_file(fmt::format("serve-{:016x}.lock", std::hash<std::string>()(path)));
    if (lock || lock.error().code != EWOULDBLOCK) return lock;
    return std::unexpected(Error{.operation = "serve " + path,
                                 .code = EBUSY,
                                 .detail = "another process serves it",
                                 .hint = "to have it read again, send that one SIGHUP"});
}

Result<Log> open_log(const ServeFile& file) {
    if (file.log == "stderr") return Log::to_stderr();
    return file.log == "syslog" ? Log::to_syslog() : Log::to_file(file.log);
}

class Server {
public:
    Server(std::string path, Log log, Fd signals)
        : path_(std::move(path)),
          log_(std::move(log)),
          notify_(Notify::from_environment()),
          signals_(std::move(signals)) {}

    int run(const ServeFile& file) {
        auto set = DeviceSet::start(file, log_, [this] { tell_alive(); });
        if (!set) {
            log_.write(Level::error, set.error().message());
            return kFailure;
        }
        set_ = std::move(*set);
        if (set_->serving() == 0) {
            log_.write(Level::error, "none of the devices can be served");
            return kFailure;
        }
        set_thread_nice(file.nice);  // it answers for the disks: see run_server
        log_.write(Level::info, status());
        notify_.send("READY=1\nSTATUS=" + status());
        try {
            return serve();
        } catch (const std::exception& error) {
            return give_up(error.what());
        }
    }

private:
    [[nodiscard]] std::string status() const {
        return fmt::format("{} of {} devices are served", set_->serving(), set_->members().size());
    }

    void tell_alive() {
        if (notify_.watchdog()) notify_.send("WATCHDOG=1");
    }

    // In milliseconds; half of what is allowed.
    [[nodiscard]] int patience() const {
        if (!notify_.watchdog()) return -1;
        const auto half =
            std::chrono::duration_cast<std::chrono::milliseconds>(*notify_.watchdog() / 2);
        return std::max(1, static_cast<int>(half.count()));
    }

    int serve() {
        std::vector<pollfd> fds;
        std::vector<Member*> members;
        while (true) {
            fds = {{signals_.get(), POLLIN, 0}, {set_->ended(), POLLIN, 0}};
            members.clear();
            for (const auto& member : set_->members()) {
                if (!member->served) continue;
                fds.push_back({member->served->listener.get(), POLLIN, 0});
                members.push_back(member.get());
            }
            const int ready = poll(fds.data(), fds.size(), patience());
            tell_alive();
            if (ready <= 0) continue;
            // Before what may take members away.
            for (std::size_t at = 0; at < members.size(); ++at) {
                if (fds[at + 2].revents != 0) set_->answer(*members[at]);
            }
            if (fds[1].revents != 0) {
                const bool stands = set_->take_ended();
                notify_.send("STATUS=" + status());
                if (!stands) return give_up("the queue threads have ended");
            }
            if (fds[0].revents != 0 && hear_signal()) return end();
        }
    }

    // True: to end.
    bool hear_signal() {
        signalfd_siginfo seen{};
        if (read(signals_.get(), &seen, sizeof(seen)) != sizeof(seen)) return false;
        if (seen.ssi_signo != SIGHUP) return true;
        reload();
        return false;
    }

    void reload() {
        notify_.reloading();
        const auto file = read_serve_file(path_);
        std::string outcome;
        if (file) {
            set_->reload(*file);
            outcome = status();
            log_.write(Level::info, fmt::format("read {} again; {}", path_, outcome));
        } else {
            outcome = "nothing is changed: " + file.error();
            log_.write(Level::error, outcome);
        }
        notify_.send("READY=1\nSTATUS=" + outcome);
    }

    int end() {
        notify_.send("STOPPING=1\nSTATUS=removing the devices");
        log_.write(Level::info, "asked to end");
        return set_->remove_all() ? kSuccess : kFailure;
    }

    // Devices with recovery wait for the next process. Of those that still serve, on threads of
    // their own or because their end was not heard of yet, the kernel is to see a server that was
    // killed.
    int give_up(const std::string& why) {
        log_.write(Level::error, why + "; devices with recovery wait for the next 'ashlar serve'");
        notify_.send("STOPPING=1\nSTATUS=" + why);
        if (set_->abandon()) return kFailure;
        std::fflush(nullptr);
        std::_Exit(kFailure);
    }

    const std::string path_;
    const Log log_;
    const Notify notify_;
    const Fd signals_;
    std::unique_ptr<DeviceSet> set_;
};

int run_serve(const ServeOptions& options) {
    const auto file = read_serve_file(options.file);
    if (!file) {
        complain(file.error());
        return kFailure;
    }
    if (options.check) {
        fmt::print("{}: {} devices, nothing is wrong\n", options.file, file->devices.size());
        return kSuccess;
    }
    const auto claimed = claim(file->path);
    if (!claimed) return fail(claimed.error());
    auto signals = take_signals({SIGTERM, SIGINT, SIGQUIT, SIGHUP});
    if (!signals) return fail(signals.error());
    auto log = open_log(*file);
    if (!log) return fail(log.error());
    log->set_subject("serve");
    auto control = Control::open();
    if (!control) return fail(control.error());
    return Server(file->path, std::move(*log), std::move(*signals)).run(*file);
}

}  // namespace

void serve_command(CLI::App& app, Action& action) {
    CLI::App& serve =
        *app.add_subcommand("serve", "Serve the devices that a file declares, all in this process");
    auto options = std::make_shared<ServeOptions>();
    serve.add_option("file", options->file, "TOML: see below")->type_name("FILE")->required();
    serve.add_flag("--check", options->check, "Only say whether the file is in order");
    serve.footer(
        "The file has a table for each device, with the words of 'ashlar add TYPE --help':\n\n"
        "  [server]                      # may be left out, and so each of its words\n"
        "  threads = 2                   # that serve all devices; default: one for each CPU\n"
        "  nice = -20                    # their priority\n"
        "  log = \"stderr\"                # or \"syslog\", or the path of a file\n"
        "  force = false                 # whether SIGHUP removes what is in use\n\n"
        "  [device.data]                 # or [[device]] with name = \"data\"\n"
        "  type = \"file\"\n"
        "  path = \"/data/a.img\"          # uri, command or members with other types\n"
        "  direct = true\n"
        "  recovery = \"reissue\"          # it outlives this process, for the next one\n"
        "  layers = [\"delay:read=1ms\"]\n\n"
        "SIGHUP: reads the file again. SIGTERM: removes the devices and ends. A device with\n"
        "'threads', 'sqpoll' or 'busy-poll' has threads of its own: if they fail, only it goes.\n"
        "\nExamples:\n  ashlar serve disks.toml --check\n  ashlar serve disks.toml");
    serve.callback([options, &action] { action = [options] { return run_serve(*options); }; });
}

}  // namespace ashlar::cli
