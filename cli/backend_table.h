// The backends and layers that the command knows. Each option is described, read and put to use
// here and nowhere else: the subcommands of `ashlar add` and the specs are made from it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ashlar/backend.h>

#include "cli/backend_spec.h"
#include "cli/log.h"
#include "cli/spec_reader.h"

namespace ashlar::cli {

// Told what happens to an open backend that whoever runs it should know. Thread: any.
using Report = std::function<void(Level, const std::string&)>;
using OpenBackend = std::function<Result<std::shared_ptr<Backend>>(const Report&)>;

struct BackendEntry {
    TypeInfo info;
    // Reads what was asked for and answers what opens it; opens nothing yet. below: the members, or
    // the one backend that a layer lies on.
    OpenBackend (*prepare)(SpecReader& reader, std::vector<OpenBackend>&& below);
    // Of what a program serves: see program_of() and serve_by_program().
    std::vector<std::string> (*program)(const Spec&) = nullptr;
    void (*serve)(Spec&, const std::string& socket) = nullptr;
    // Of what is opened by name more than once: see paths_to_reopen().
    std::vector<std::string> (*reopens)(const Spec&) = nullptr;
};
[[nodiscard]] std::span<const BackendEntry> backend_entries();
[[nodiscard]] std::span<const BackendEntry> layer_entries();

// The program and its arguments that are to be started before the backend can be opened; empty:
// none. Members and layers are not looked at.
[[nodiscard]] std::vector<std::string> program_of(const Spec& spec);
// It has been started, and serves by NBD on this socket.
void serve_by_program(Spec& spec, const std::string& socket);

// The option that would keep in a file what it now has in memory, and that goes with its server:
// of a disk in memory, "memory-file". Empty: there is nothing of that kind. Of a backend or layer
// alone.
[[nodiscard]] std::string_view memory_option(const Spec& spec);
// Whether it, a member or a layer of it, has something of that kind.
[[nodiscard]] bool has_memory_of_its_own(const Spec& spec);
// Whether it has a program that is to be started.
[[nodiscard]] bool has_program_of_its_own(const Spec& spec);

// What it and its members open by name again, while the disk serves: sockets and files of keys,
// for connections of more queues, or after one that was lost.
[[nodiscard]] std::vector<std::string> paths_to_reopen(const Spec& spec);

// What specs may name.
[[nodiscard]] Grammar grammar();

// How its own options were written: "--size 1G" in a command, "size=1G" in a spec, or in a file
// size = "1G".
enum class Written { as_options, as_spec, as_keys };

// What opens a backend with its members and its layers. Requires a spec of the grammar's types.
[[nodiscard]] Parsed<OpenBackend> prepare(const Spec& spec, Written written);

}  // namespace ashlar::cli
