// ashlar replay LOG: the disk as a crash may have left it, from what the log layer recorded.
#include <fmt/format.h>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/log_replayer.h>

#include "base/units.h"
#include "cli/command.h"
#include "cli/json_text.h"
#include "cli/progress.h"

namespace ashlar::cli {
namespace {

struct ReplayCommand {
    ReplayOptions replay;
    bool list = false;
    std::optional<std::uint64_t> at;
    std::string each;                  // a shell command
    std::vector<std::uint64_t> seeds;  // of --unflushed
    std::string compare;               // a disk's path
    bool json = false;
};

// Why these options make no sense together; empty if they do.
std::string find_mistake(const ReplayCommand& command) {
    const int jobs = (command.list ? 1 : 0) + (command.at ? 1 : 0) +
                     (command.each.empty() ? 0 : 1) + (command.compare.empty() ? 0 : 1);
    if (jobs > 1) return "only one of --list, --at, --each and --compare";
    if (command.list != command.replay.image.empty()) {
        return command.list ? "--list writes nothing; leave --to out"
                            : "where to? write --to FILE, or --list to see the boundaries";
    }
    if (command.list && command.replay.over) return "--over is for --to";
    if (!command.seeds.empty() && !command.at && command.each.empty()) {
        return "--unflushed is for --at and --each";
    }
    if (command.at && command.seeds.size() > 1) return "--at makes one disk; one --unflushed";
    return {};
}

// The log is not whole when a server was killed, or had no space; what is whole counts.
void tell_gaps(const LogReplayer& replayer, const std::string& log) {
    std::uint64_t bytes = 0;
    for (const Range& gap : replayer.gaps()) bytes += gap.length;
    if (bytes == 0) return;
    complain(fmt::format(
        "warning: {} is not whole: {} bytes, the first at byte {}, are no record. The server was "
        "killed or could not write; what it answered is not among them",
        log, bytes, replayer.gaps().front().offset));
}

nlohmann::ordered_json to_json(const LogReplayer& replayer) {
    auto gaps = nlohmann::ordered_json::array();
    for (const Range& gap : replayer.gaps()) {
        gaps.push_back({{"offset_bytes", gap.offset}, {"length_bytes", gap.length}});
    }
    return {{"size_bytes", replayer.disk_size()},
            {"logical_block_bytes", replayer.logical_block()},
            {"sequence", replayer.sequence()},
            {"gaps", gaps}};
}

std::string_view name(LogBoundary::Kind kind) {
    switch (kind) {
        case LogBoundary::Kind::start: return "start";
        case LogBoundary::Kind::flush: return "flush";
        case LogBoundary::Kind::fua: return "fua";
    }
    return "";
}

int list_boundaries(const ReplayCommand& command, LogReplayer& replayer) {
    auto array = nlohmann::ordered_json::array();
    if (!command.json) fmt::print("{:>14} {:<6} {:>9}\n", "SEQUENCE", "KIND", "UNFLUSHED");
    while (true) {
        const auto boundary = replayer.advance();
        if (!boundary) return fail(boundary.error());
        if (!*boundary) break;
        const LogBoundary& one = **boundary;
        if (command.json) {
            array.push_back({{"sequence", one.sequence},
                             {"until", one.until},
                             {"kind", name(one.kind)},
                             {"unflushed", one.unflushed}});
        } else {
            fmt::print("{:>14} {:<6} {:>9}\n", one.sequence, name(one.kind), one.unflushed);
        }
    }
    if (command.json) {
        auto json = to_json(replayer);
        json["boundaries"] = std::move(array);
        fmt::print("{}\n", json_text(json, 2));
    }
    return kSuccess;
}

// Runs the command for the image as it is; its exit status.
int run_check(const ReplayCommand& command, const LogBoundary& boundary, const std::string& seed) {
    setenv("ASHLAR_IMAGE", command.replay.image.c_str(), 1);
    setenv("ASHLAR_SEQUENCE", std::to_string(boundary.sequence).c_str(), 1);
    setenv("ASHLAR_UNTIL", std::to_string(boundary.until).c_str(), 1);
    setenv("ASHLAR_UNFLUSHED", seed.c_str(), 1);
    std::fflush(nullptr);
    // NOLINTNEXTLINE(cert-env33-c): a shell is what the option promises.
    const int status = std::system(command.each.c_str());
    if (status < 0) return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int check_each(const ReplayCommand& command, LogReplayer& replayer) {
    std::uint64_t boundaries = 0;
    std::uint64_t disks = 0;
    Progress progress("disks that passed", std::nullopt);
    const auto passes = [&](const LogBoundary& at, const std::string& seed) {
        progress.at(disks++);
        const int status = run_check(command, at, seed);
        if (status == 0) return true;
        complain(fmt::format("the command gave {} at sequence {}{}; {} holds that disk", status,
                             at.sequence, seed.empty() ? "" : " --unflushed " + seed,
                             command.replay.image));
        return false;
    };
    while (true) {
        const auto boundary = replayer.advance();
        if (!boundary) return fail(boundary.error());
        if (!*boundary) break;
        ++boundaries;
        if (!passes(**boundary, "")) return kFailure;
        for (const std::uint64_t seed : command.seeds) {
            if (auto added = replayer.add_unflushed(seed); !added) return fail(added.error());
            if (!passes(**boundary, std::to_string(seed))) return kFailure;
        }
    }
    if (command.json) {
        auto json = to_json(replayer);
        json["boundaries"] = boundaries;
        json["disks"] = disks;
        fmt::print("{}\n", json_text(json, 2));
    } else {
        fmt::print("{} disks at {} boundaries passed\n", disks, boundaries);
    }
    return kSuccess;
}

int build_one(const ReplayCommand& command, LogReplayer& replayer) {
    std::uint64_t last = 0;
    Progress progress("boundaries", std::nullopt);
    for (std::size_t seen = 0;; ++seen) {
        progress.at(seen);
        const auto boundary = replayer.advance();
        if (!boundary) return fail(boundary.error());
        if (!*boundary) break;
        last = (*boundary)->sequence;
        if (command.at && last >= *command.at) break;
    }
    if (command.at && last != *command.at) {
        complain(fmt::format("there is no boundary at sequence {}; see 'ashlar replay {} --list'",
                             *command.at, command.replay.log));
        return kFailure;
    }
    if (command.at) {
        for (const std::uint64_t seed : command.seeds) {
            if (auto added = replayer.add_unflushed(seed); !added) return fail(added.error());
        }
    } else if (auto done = replayer.complete(); !done) {
        return fail(done.error());
    }
    if (command.json) fmt::print("{}\n", json_text(to_json(replayer), 2));
    return kSuccess;
}

int compare(const ReplayCommand& command, LogReplayer& replayer) {
    Progress progress("boundaries", std::nullopt);
    for (std::size_t seen = 0;; ++seen) {
        progress.at(seen);
        const auto boundary = replayer.advance();
        if (!boundary) return fail(boundary.error());
        if (!*boundary) break;
    }
    const auto impossible = replayer.find_impossible(command.compare);
    if (!impossible) return fail(impossible.error());
    if (*impossible) {
        complain(
            fmt::format("{} broke a promise: the block at byte {} is neither what was flushed "
                        "nor what was written since; {} holds what was flushed",
                        command.compare, **impossible, command.replay.image));
        return kFailure;
    }
    if (command.json) fmt::print("{}\n", json_text(to_json(replayer), 2));
    return kSuccess;
}

int replay(const ReplayCommand& command) {
    if (const std::string mistake = find_mistake(command); !mistake.empty()) {
        complain(mistake + "; see 'ashlar replay --help'");
        return kUsage;
    }
    auto replayer = LogReplayer::open(command.replay);
    if (!replayer) return fail(replayer.error());
    int status = kSuccess;
    if (command.list) {
        status = list_boundaries(command, *replayer);
    } else if (!command.each.empty()) {
        status = check_each(command, *replayer);
    } else if (!command.compare.empty()) {
        status = compare(command, *replayer);
    } else {
        status = build_one(command, *replayer);
    }
    tell_gaps(*replayer, command.replay.log);
    return status;
}

}  // namespace

void replay_command(CLI::App& app, Action& action) {
    CLI::App& replay_app =
        *app.add_subcommand("replay", "Rebuild disks from a log, as a crash may have left them");
    auto command = std::make_shared<ReplayCommand>();
    replay_app.add_option("log", command->replay.log, "Written by --layer log:LOG,create")
        ->required()
        ->type_name("LOG");
    replay_app
        .add_option("--to", command->replay.image,
                    "The file that becomes the disk; made, or empty, unless with --over")
        ->type_name("FILE");
    replay_app.add_flag("--over", command->replay.over,
                        "That file, or block device, holds what the disk held when the log began");
    replay_app.add_flag("--list", command->list,
                        "Show the boundaries: where something became durable");
    replay_app
        .add_option("--at", command->at,
                    "The disk with what was durable at that boundary; without: with everything "
                    "that was answered")
        ->type_name("SEQUENCE");
    replay_app
        .add_option("--each", command->each,
                    "Run this command for each boundary's disk, until one fails; it finds "
                    "ASHLAR_IMAGE, which it leaves as it is, ASHLAR_SEQUENCE, ASHLAR_UNTIL and "
                    "ASHLAR_UNFLUSHED, the seed")
        ->type_name("COMMAND");
    replay_app
        .add_option("--unflushed", command->seeds,
                    "Also with some of what was not durable, by this seed; with --each as often as "
                    "you like")
        ->type_name("SEED")
        ->allow_extra_args(false);
    replay_app
        .add_option("--compare", command->compare,
                    "Whether this disk, after a crash, is one that keeps all promises")
        ->type_name("DISK");
    replay_app.add_flag("--json", command->json, "Print one JSON object");
    replay_app.footer(
        "A boundary is where something became durable; its sequence is a length of the log in "
        "bytes. Its\ndisk is what a crash leaves until the next one, at least: what was synced "
        "when "
        "the log had N\nbytes must be on every disk whose ASHLAR_UNTIL is more than N.\n"
        "\nExamples:\n"
        "  ashlar replay a.log --list\n"
        "  ashlar replay a.log --to a.img --at 1052736 --unflushed 7\n"
        "  ashlar replay a.log --to a.img --unflushed 1 --unflushed 2 \\\n"
        "      --each 'cp --sparse=always a.img b.img && e2fsck -fy b.img; e2fsck -fn b.img'\n"
        "  ashlar replay a.log --to a.img --compare /data/disk.img");
    replay_app.callback([command, &action] { action = [command] { return replay(*command); }; });
}

}  // namespace ashlar::cli
