#include "cli/backend_table.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <ashlar/backends.h>

#include "cli/nbd_backends.h"
#include "cli/wrap.h"

namespace ashlar::cli {
namespace {

// ---- mem and null ------------------------------------------------------------------------------

constexpr OptionInfo kBlockSize{"block-size", "SIZE",
                                "Logical block size: 512, 1K, 2K or 4K; default: 512"};
constexpr OptionInfo kPhysicalBlockSize{"physical-block-size", "SIZE",
                                        "Physical block size; default: 4K"};

constexpr std::array kMemOptions = {
    OptionInfo{"size", "SIZE", "Bytes, or with K, M, G, T: 512M", true},
    OptionInfo{"hugepages", "", "Ask for transparent huge pages"},
    OptionInfo{"memory-file", "PATH",
               "Keep the bytes in this file on tmpfs or hugetlbfs: they outlive the server"},
    kBlockSize,
    kPhysicalBlockSize,
};

constexpr std::array kNullOptions = {
    OptionInfo{"size", "SIZE", "Bytes, or with K, M, G, T; default: 250G"},
    OptionInfo{"no-fill", "", "Leave read buffers as they are: what is read is undefined"},
    kBlockSize,
    kPhysicalBlockSize,
};

constexpr std::array<std::string_view, 1> kMemExamples = {
    "mem --size 1G --queues 2",
};

constexpr std::array<std::string_view, 1> kNullExamples = {
    "null --no-fill",
};

Geometry read_geometry(SpecReader& reader, std::uint64_t default_size) {
    Geometry geometry{.size = reader.size("size", default_size)};
    geometry.logical_block_size = reader.small_size("block-size", 512);
    geometry.physical_block_size = reader.small_size(
        "physical-block-size", std::max<std::uint32_t>(geometry.logical_block_size, 4096));
    if (auto valid = check_geometry(geometry); !valid) reader.refuse(valid.error().detail);
    return geometry;
}

OpenBackend prepare_mem(SpecReader& reader, std::vector<OpenBackend>&&) {
    const MemoryOptions options{.geometry = read_geometry(reader, 0),
                                .hugepages = reader.has("hugepages"),
                                .file = reader.whole_path("memory-file")};
    return [options](const Report&) { return open_memory(options); };
}

OpenBackend prepare_null(SpecReader& reader, std::vector<OpenBackend>&&) {
    constexpr std::uint64_t default_size = std::uint64_t{250} << 30;
    const NullOptions options{.geometry = read_geometry(reader, default_size),
                              .fill = !reader.has("no-fill")};
    return [options](const Report&) { return open_null(options); };
}

// ---- file --------------------------------------------------------------------------------------

constexpr std::array kFileOptions = {
    OptionInfo{"direct", "", "Go past the page cache (O_DIRECT)"},
    OptionInfo{"read-only", "", "Open it for reading only"},
    OptionInfo{"offset", "SIZE", "Where in the file the disk begins; default: 0"},
    OptionInfo{"length", "SIZE", "Size of the disk; default: to the end of the file"},
    OptionInfo{.key = "create",
               .value = "",
               .help = "Make the file, which must not exist; needs a size",
               .makes = true},
    OptionInfo{.key = "size", .value = "SIZE", .help = "Of the file that is made", .makes = true},
    OptionInfo{"preallocate", "", "Take the space of the whole disk now: no ENOSPC later"},
    OptionInfo{"block-size", "SIZE",
               "Logical block size: 512, 1K, 2K or 4K; default: what lies underneath needs"},
};

constexpr std::array<std::string_view, 3> kFileExamples = {
    "file /data/a.img --direct",
    "file /data/b.img --create --size 10G --preallocate",
    "file /dev/sdb --offset 1M --length 10G --read-only",
};

OpenBackend prepare_file(SpecReader& reader, std::vector<OpenBackend>&&) {
    FileOptions options{.path = reader.path(),
                        .offset = reader.size("offset", 0),
                        .direct = reader.has("direct"),
                        .read_only = reader.has("read-only"),
                        .create = reader.has("create"),
                        .size = reader.size("size", 0),
                        .preallocate = reader.has("preallocate"),
                        .logical_block_size = reader.small_size("block-size", 0)};
    if (reader.has("length")) options.length = reader.size("length", 0);
    if (options.create && !reader.has("size")) {
        reader.refuse(fmt::format("{} needs {}: how large the file shall be",
                                  reader.labelled("create"), reader.labelled("size")));
    }
    if (!options.create && reader.has("size")) {
        reader.refuse(
            fmt::format("{} is for a file that is made, with {}; a part of a file that "
                        "exists is chosen by offset and length",
                        reader.labelled("size"), reader.labelled("create")));
    }
    return [options](const Report&) { return open_file(options); };
}

// ---- stripe and linear -------------------------------------------------------------------------

constexpr std::array kStripeOptions = {
    OptionInfo{"chunk", "SIZE",
               "Bytes on one member before the next, a power of two, 4K or more; default: 64K"},
};

constexpr std::array<std::string_view, 1> kStripeExamples = {
    "stripe file:/data/a.img,direct file:/data/b.img,direct --chunk 128K",
};

constexpr std::array<std::string_view, 1> kLinearExamples = {
    "linear file:/data/a.img 'stripe:[mem:size=1G],[mem:size=1G|delay:read=1ms]'",
};

Result<Backends> open_members(const std::vector<OpenBackend>& members, const Report& report) {
    Backends opened;
    for (const OpenBackend& open : members) {
        auto member = open(report);
        if (!member) return std::unexpected(member.error());
        opened.push_back(std::move(*member));
    }
    return opened;
}

OpenBackend prepare_stripe(SpecReader& reader, std::vector<OpenBackend>&& below) {
    StripeOptions options;
    options.chunk = reader.small_size("chunk", options.chunk);
    return [options,
            below = std::move(below)](const Report& report) -> Result<std::shared_ptr<Backend>> {
        auto members = open_members(below, report);
        if (!members) return std::unexpected(members.error());
        return open_stripe(std::move(*members), options);
    };
}

OpenBackend prepare_linear(SpecReader&, std::vector<OpenBackend>&& below) {
    return [below = std::move(below)](const Report& report) -> Result<std::shared_ptr<Backend>> {
        auto members = open_members(below, report);
        if (!members) return std::unexpected(members.error());
        return open_linear(std::move(*members));
    };
}

// ---- zoned -------------------------------------------------------------------------------------

constexpr std::array kZonedOptions = {
    OptionInfo{"zone-size", "SIZE", "Of each zone, a power of two, 4K or more; default: 256M"},
    OptionInfo{"capacity", "SIZE", "Of a zone that can be written; default: all of it"},
    OptionInfo{"conventional", "N",
               "Zones at the beginning that may be written anywhere; default: 0"},
    OptionInfo{"open-max", "N", "Zones that are open at once; default: any number"},
    OptionInfo{"active-max", "N", "The same of those open or closed"},
    OptionInfo{
        "state", "PATH",
        "Where the write pointers are kept; default: PATH.zones of a file, memory of others"},
    OptionInfo{.key = "create",
               .value = "",
               .help = "Make the file of the write pointers; all zones are empty then",
               .makes = true},
};

constexpr std::array<std::string_view, 2> kZonedExamples = {
    "zoned mem:size=4G --zone-size 64M --conventional 4",
    "zoned file:/data/a.img --create --open-max 16",
};

// In memory, so that they go with their server.
bool has_zones_in_memory(const Spec& spec) {
    return std::ranges::find(spec.options, "state", &SpecOption::key) == spec.options.end() &&
           (spec.members.empty() || spec.members.front().type != "file");
}

OpenBackend prepare_zoned(SpecReader& reader, std::vector<OpenBackend>&& below) {
    ZonedOptions options;
    options.zone_size = reader.size("zone-size", options.zone_size);
    options.capacity = reader.size("capacity", 0);
    options.conventional = reader.number("conventional", 0, UINT32_MAX, 0);
    options.open_max = static_cast<std::uint32_t>(reader.number("open-max", 0, UINT32_MAX, 0));
    options.active_max = static_cast<std::uint32_t>(reader.number("active-max", 0, UINT32_MAX, 0));
    options.create = reader.has("create");
    options.state = reader.whole_path("state");
    if (options.state.empty() && !has_zones_in_memory(reader.spec())) {
        options.state = reader.spec().members.front().path + ".zones";
    }
    if (options.create && options.state.empty()) {
        reader.refuse(fmt::format("{} needs {}: the zones of this disk are in memory",
                                  reader.labelled("create"), reader.labelled("state")));
    }
    return wrap(open_zoned, options, below);
}

// ---- The tables --------------------------------------------------------------------------------

const std::array kBackends = {
    BackendEntry{.info = {.name = "mem",
                          .help = "A sparse disk in memory; gone when removed",
                          .options = kMemOptions,
                          .examples = kMemExamples},
                 .prepare = prepare_mem},
    BackendEntry{.info = {.name = "null",
                          .help = "Reads zeroes, drops writes: for measuring",
                          .options = kNullOptions,
                          .examples = kNullExamples},
                 .prepare = prepare_null},
    BackendEntry{.info = {.name = "file",
                          .help = "A disk in a file or on a block device",
                          .argument = Argument::path,
                          .argument_help = "Of a regular file or a block device",
                          .options = kFileOptions,
                          .examples = kFileExamples},
                 .prepare = prepare_file},
    nbd_entry(),
    image_entry(),
    BackendEntry{.info = {.name = "stripe",
                          .help = "Chunks on one member after another (RAID 0)",
                          .argument = Argument::members,
                          .argument_help = "The members, two or more, such as file:/data/a.img",
                          .options = kStripeOptions,
                          .examples = kStripeExamples},
                 .prepare = prepare_stripe},
    BackendEntry{.info = {.name = "linear",
                          .help = "One member after the other",
                          .argument = Argument::members,
                          .argument_help = "The members, two or more, such as file:/data/a.img",
                          .examples = kLinearExamples},
                 .prepare = prepare_linear},
    BackendEntry{
        .info = {.name = "zoned",
                 .help = "A disk of zones that are written from their start on (host-managed)",
                 .argument = Argument::members,
                 .argument_help = "The disk it is made of, such as mem:size=4G",
                 .members_least = 1,
                 .members_most = 1,
                 .options = kZonedOptions,
                 .examples = kZonedExamples},
        .prepare = prepare_zoned},
};

const BackendEntry& find_entry(std::span<const BackendEntry> entries, std::string_view type) {
    return *std::ranges::find(entries, type, [](const BackendEntry& one) { return one.info.name; });
}

Parsed<OpenBackend> prepare_one(const BackendEntry& entry, const Spec& spec, std::string label,
                                std::vector<OpenBackend> below) {
    SpecReader reader(spec, std::move(label));
    OpenBackend open = entry.prepare(reader, std::move(below));
    if (reader.complaint()) return std::unexpected(*reader.complaint());
    return open;
}

}  // namespace

std::span<const BackendEntry> backend_entries() { return kBackends; }

std::vector<std::string> program_of(const Spec& spec) {
    const auto* const entry = std::ranges::find(
        kBackends, spec.type, [](const BackendEntry& one) { return one.info.name; });
    if (entry == kBackends.end() || entry->program == nullptr) return {};
    return entry->program(spec);
}

std::vector<std::string> paths_to_reopen(const Spec& spec) {
    const BackendEntry& entry = find_entry(kBackends, spec.type);
    auto paths = entry.reopens != nullptr ? entry.reopens(spec) : std::vector<std::string>();
    for (const Spec& member : spec.members) {
        std::ranges::move(paths_to_reopen(member), std::back_inserter(paths));
    }
    return paths;
}

void serve_by_program(Spec& spec, const std::string& socket) {
    find_entry(kBackends, spec.type).serve(spec, socket);
}

std::string_view memory_option(const Spec& spec) {
    const auto unless_given = [&](std::string_view key) {
        const auto given = std::ranges::find(spec.options, key, &SpecOption::key);
        return given == spec.options.end() ? key : std::string_view();
    };
    if (spec.type == "mem") return unless_given("memory-file");
    if (spec.type == "zoned" && has_zones_in_memory(spec)) return "state";
    if (spec.type == "metadata") return unless_given("path");
    return {};
}

bool has_memory_of_its_own(const Spec& spec) {
    return !memory_option(spec).empty() ||
           std::ranges::any_of(spec.members, has_memory_of_its_own) ||
           std::ranges::any_of(spec.layers, has_memory_of_its_own);
}

bool has_program_of_its_own(const Spec& spec) {
    return !program_of(spec).empty() || std::ranges::any_of(spec.members, has_program_of_its_own);
}

Grammar grammar() {
    Grammar grammar;
    for (const BackendEntry& one : kBackends) grammar.backends.push_back(&one.info);
    for (const BackendEntry& one : layer_entries()) grammar.layers.push_back(&one.info);
    return grammar;
}

Parsed<OpenBackend> prepare(const Spec& spec, Written written) {
    std::vector<OpenBackend> members;
    for (const Spec& member : spec.members) {
        auto open = prepare(member, Written::as_spec);
        if (!open) return open;
        members.push_back(std::move(*open));
    }
    const BackendEntry& backend = find_entry(kBackends, spec.type);
    if (backend.info.argument == Argument::members &&
        (members.size() < backend.info.members_least ||
         members.size() > backend.info.members_most)) {
        return std::unexpected(backend.info.members_most == 1
                                   ? fmt::format("{} is made of one disk", spec.type)
                                   : fmt::format("{} needs two members or more", spec.type));
    }
    std::string label = spec.type + ": ";
    if (written == Written::as_options) label = "--";
    if (written == Written::as_keys) label = "";
    auto open = prepare_one(backend, spec, std::move(label), std::move(members));
    for (const Spec& layer : spec.layers) {
        if (!open) return open;
        std::vector<OpenBackend> below;
        below.push_back(std::move(*open));
        open = prepare_one(find_entry(layer_entries(), layer.type), layer, layer.type + ": ",
                           std::move(below));
    }
    return open;
}

}  // namespace ashlar::cli
