#include "cli/backend_table.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <ashlar/backends.h>

#include "cli/nbd_backends.h"

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
    const std::string* file = reader.text("memory-file");
    if (file != nullptr && !file->starts_with('/')) {
        reader.refuse(fmt::format("{} is '{}'; write the whole path, from /",
                                  reader.labelled("memory-file"), *file));
    }
    const MemoryOptions options{.geometry = read_geometry(reader, 0),
                                .hugepages = reader.has("hugepages"),
                                .file = file != nullptr ? *file : std::string()};
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

// ---- Layers ------------------------------------------------------------------------------------

// What opens a layer on whatever opens the backend below it.
template <class Options>
OpenBackend wrap(Result<std::shared_ptr<Backend>> (*open)(std::shared_ptr<Backend>, const Options&),
                 Options options, const std::vector<OpenBackend>& below) {
    return [open, options = std::move(options),
            open_inner = below.front()](const Report& report) -> Result<std::shared_ptr<Backend>> {
        auto inner = open_inner(report);
        if (!inner) return inner;
        return open(std::move(*inner), options);
    };
}

constexpr OptionInfo kSeed{"seed", "N", "Of the random numbers; default: 1"};

constexpr std::string_view kLatency = "LATENCY";
constexpr std::array kDelayOptions = {
    OptionInfo{"read", kLatency, "How long reads are held"},
    OptionInfo{"write", kLatency, "The same for writes"},
    OptionInfo{"flush", kLatency, "The same for flushes"},
    OptionInfo{"discard", kLatency, "The same for discards"},
    OptionInfo{"write-zeroes", kLatency, "The same for write zeroes"},
    kSeed,
};

constexpr std::array<std::string_view, 1> kDelayExamples = {
    "mem --size 1G --layer delay:read=10ms,write=exponential/5ms",
};

OpenBackend prepare_delay(SpecReader& reader, std::vector<OpenBackend>&& below) {
    DelayOptions options;
    options.read = reader.latency("read");
    options.write = reader.latency("write");
    options.flush = reader.latency("flush");
    options.discard = reader.latency("discard");
    options.write_zeroes = reader.latency("write-zeroes");
    options.seed = reader.number("seed", 0, UINT64_MAX, options.seed);
    const bool delays = std::ranges::any_of(kDelayOptions, [&](const OptionInfo& option) {
        return option.value == kLatency && reader.has(option.key);
    });
    if (!delays) {
        reader.refuse("delay: of what? write read=10ms, or write, flush, discard, write-zeroes");
    }
    return wrap(open_delay, options, below);
}

constexpr std::array kFaultOptions = {
    OptionInfo{"error", "", "Requests fail with errno"},
    OptionInfo{"torn", "", "Writes store some of their blocks, then fail"},
    OptionInfo{"lost", "", "Changes answer success and do nothing"},
    OptionInfo{"power-cut", "", "From the first on, every request fails"},
    OptionInfo{"volatile-cache", "", "Writes are lost by a power cut until they are flushed"},
    OptionInfo{"ops", "OP+OP", "Only these operations; default: all it is possible for"},
    OptionInfo{"range", "OFFSET+LENGTH", "Only requests that touch it"},
    OptionInfo{"rate", "0..1", "How many of them; default: 1, all"},
    OptionInfo{"errno", "NAME", "The error; default: EIO"},
    OptionInfo{"after", "TIME", "Not before the disk has been open that long; default: 0s"},
    kSeed,
};

struct NamedKind {
    std::string_view key;
    Fault::Kind kind;
};
constexpr std::array kFaultKinds = {
    NamedKind{"error", Fault::Kind::error}, NamedKind{"torn", Fault::Kind::torn},
    NamedKind{"lost", Fault::Kind::lost}, NamedKind{"power-cut", Fault::Kind::power_cut}};

constexpr std::array<std::string_view, 2> kFaultExamples = {
    "mem --size 1G --layer fault:error,ops=write+flush,rate=0.01,errno=ENOSPC",
    "mem --size 1G --layer fault:power-cut,after=3s,volatile-cache",
};

// One fault a layer; what goes wrong in another way is a layer of its own.
std::vector<Fault> read_faults(SpecReader& reader) {
    std::vector<Fault> faults;
    for (const auto& [key, kind] : kFaultKinds) {
        if (reader.has(key)) faults.push_back({.kind = kind});
    }
    if (faults.size() > 1) {
        reader.refuse(
            "fault: only one of error, torn, lost and power-cut; for another, add another"
            " fault layer");
    }
    if (faults.empty()) {
        for (const char* key : {"ops", "range", "rate", "errno", "after"}) {
            if (!reader.has(key)) continue;
            reader.refuse(
                fmt::format("fault: {} of what? add error, torn, lost or power-cut", key));
        }
        return faults;
    }
    Fault& fault = faults.front();
    fault.operations = reader.operations("ops");
    fault.range = reader.range("range");
    fault.rate = reader.rate("rate", fault.rate);
    fault.code = reader.error_number("errno", EIO);
    fault.after = reader.duration("after", fault.after);
    return faults;
}

OpenBackend prepare_fault(SpecReader& reader, std::vector<OpenBackend>&& below) {
    FaultOptions options{.faults = read_faults(reader),
                         .volatile_cache = reader.has("volatile-cache")};
    options.seed = reader.number("seed", 0, UINT64_MAX, options.seed);
    if (options.faults.empty() && !options.volatile_cache) {
        reader.refuse("fault: of which kind? write error, torn, lost, power-cut or volatile-cache");
    }
    return wrap(open_fault, std::move(options), below);
}

constexpr std::array kLogOptions = {
    OptionInfo{.key = "create",
               .value = "",
               .help = "Make the log, which must not exist; else it is continued",
               .makes = true},
};

constexpr std::array<std::string_view, 1> kLogExamples = {
    "mem --size 1G --layer log:/data/a.log,create",
};

OpenBackend prepare_log(SpecReader& reader, std::vector<OpenBackend>&& below) {
    const LogOptions options{.path = reader.path(), .create = reader.has("create")};
    return wrap(open_log, options, below);
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
};

constexpr std::array kLayers = {
    BackendEntry{.info = {.name = "delay",
                          .help = "Holds requests before they go on",
                          .options = kDelayOptions,
                          .examples = kDelayExamples},
                 .prepare = prepare_delay},
    BackendEntry{.info = {.name = "fault",
                          .help = "Lets requests go wrong",
                          .options = kFaultOptions,
                          .examples = kFaultExamples},
                 .prepare = prepare_fault},
    BackendEntry{.info = {.name = "log",
                          .help = "Records changes and flushes, for ashlar replay",
                          .argument = Argument::path,
                          .argument_help = "Of the log",
                          .options = kLogOptions,
                          .examples = kLogExamples},
                 .prepare = prepare_log},
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
std::span<const BackendEntry> layer_entries() { return kLayers; }

std::vector<std::string> program_of(const Spec& spec) {
    const BackendEntry& entry = find_entry(kBackends, spec.type);
    return entry.program != nullptr ? entry.program(spec) : std::vector<std::string>();
}

void serve_by_program(Spec& spec, const std::string& socket) {
    find_entry(kBackends, spec.type).serve(spec, socket);
}

bool is_memory_of_its_own(const Spec& spec) {
    return spec.type == "mem" &&
           std::ranges::find(spec.options, "memory-file", &SpecOption::key) == spec.options.end();
}

bool has_memory_of_its_own(const Spec& spec) {
    return is_memory_of_its_own(spec) || std::ranges::any_of(spec.members, has_memory_of_its_own);
}

bool has_program_of_its_own(const Spec& spec) {
    return !program_of(spec).empty() || std::ranges::any_of(spec.members, has_program_of_its_own);
}

Grammar grammar() {
    Grammar grammar;
    for (const BackendEntry& one : kBackends) grammar.backends.push_back(&one.info);
    for (const BackendEntry& one : kLayers) grammar.layers.push_back(&one.info);
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
    if (backend.info.argument == Argument::members && members.size() < 2) {
        return std::unexpected(fmt::format("{} needs two members or more", spec.type));
    }
    std::string label = spec.type + ": ";
    if (written == Written::as_options) label = "--";
    if (written == Written::as_keys) label = "";
    auto open = prepare_one(backend, spec, std::move(label), std::move(members));
    for (const Spec& layer : spec.layers) {
        if (!open) return open;
        std::vector<OpenBackend> below;
        below.push_back(std::move(*open));
        open = prepare_one(find_entry(kLayers, layer.type), layer, layer.type + ": ",
                           std::move(below));
    }
    return open;
}

}  // namespace ashlar::cli
