#include "cli/held.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cli/backend_table.h"

namespace ashlar::cli {
namespace {

template <class Visit>
Result<void> for_each_backend(Spec& spec, const Visit& visit) {
    if (auto visited = visit(spec); !visited) return visited;
    for (Spec& member : spec.members) {
        if (auto visited = for_each_backend(member, visit); !visited) return visited;
    }
    for (Spec& layer : spec.layers) {
        if (auto visited = visit(layer); !visited) return visited;
    }
    return {};
}

// What opens the job's backend is made again from its spec.
Result<void> prepare_again(ServerJob& job) {
    auto open = prepare(job.spec, Written::as_spec);
    if (!open) {
        return std::unexpected(
            Error{.operation = "open the backend", .code = EINVAL, .detail = open.error()});
    }
    job.open_backend = std::move(*open);
    return {};
}

}  // namespace

Result<void> Held::hold_memory(ServerJob& job) {
    const auto hold = [&](Spec& one) -> Result<void> {
        const std::string_view option = memory_option(one);
        if (option.empty()) return {};
        Fd fd(memfd_create("ashlar", MFD_CLOEXEC));
        if (!fd.valid()) {
            return std::unexpected(Error{.operation = "hold the disk's memory", .code = errno});
        }
        // Whoever may look at this process opens the same memory there.
        one.options.push_back({.key = std::string(option),
                               .value = fmt::format("/proc/{}/fd/{}", getpid(), fd.get())});
        memory_.push_back(std::move(fd));
        return {};
    };
    if (auto done = for_each_backend(job.spec, hold); !done) return done;
    return prepare_again(job);
}

Result<void> Held::start_programs(ServerJob& job) {
    const auto start = [&](Spec& one) -> Result<void> {
        std::vector<std::string> words = program_of(one);
        if (words.empty()) return {};
        auto program = Program::start(std::move(words));
        if (!program) return std::unexpected(program.error());
        serve_by_program(one, (*program)->socket());
        programs_.push_back(std::move(*program));
        return {};
    };
    if (auto done = for_each_backend(job.spec, start); !done) return done;
    if (auto done = prepare_again(job); !done) return done;
    // A program that ended says better what is wrong than a connection that was refused.
    struct Known {
        std::string name;
        std::shared_ptr<const ProgramEnd> end;
    };
    std::vector<Known> known;
    known.reserve(programs_.size());
    for (const auto& program : programs_) known.push_back({program->name(), program->end()});
    job.open_backend = [open = std::move(job.open_backend),
                        known = std::move(known)](const Report& report) {
        auto opened = open(report);
        for (const Known& one : known) {
            if (opened) break;
            const auto why = one.end->why();
            if (!why) continue;
            return Result<std::shared_ptr<Backend>>(std::unexpected(
                Error{.operation = "start " + one.name, .code = EIO, .detail = *why}));
        }
        return opened;
    };
    return {};
}

void Held::follow(const Log& log) {
    for (const auto& program : programs_) program->follow(log);
}

}  // namespace ashlar::cli
