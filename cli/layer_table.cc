// The layers of the table.
#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <ashlar/backends.h>
#include <fmt/format.h>

#include "cli/backend_table.h"
#include "cli/wrap.h"

namespace ashlar::cli {
namespace {

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

struct NamedFormat {
    std::string_view key;
    Metadata format;
};
constexpr std::array kMetadataFormats = {
    NamedFormat{"crc16", {.size = 8, .checksum = Checksum::crc16_t10dif, .reference_tag = true}},
    NamedFormat{"crc64", {.size = 16, .checksum = Checksum::crc64_nvme, .reference_tag = true}},
    NamedFormat{"ip", {.size = 8, .checksum = Checksum::ip, .reference_tag = true}},
};

constexpr std::array kMetadataOptions = {
    OptionInfo{"crc16", "", "8 bytes a block: T10 protection information, CRC of 16 bits"},
    OptionInfo{"crc64", "", "16 bytes a block: the same with NVMe's CRC of 64 bits"},
    OptionInfo{"ip", "", "8 bytes a block: the same with IP's checksum, which is quicker"},
    OptionInfo{"bytes", "N", "N bytes a block, 1 to 255, that nobody checks"},
    OptionInfo{"path", "PATH", "The file they are kept in; default: memory"},
    OptionInfo{
        .key = "create", .value = "", .help = "Make the file, which must not exist", .makes = true},
};

constexpr std::array<std::string_view, 2> kMetadataExamples = {
    "mem --size 1G --metadata crc16",
    "file /data/a.img --metadata crc64,path=/data/a.meta,create",
};

OpenBackend prepare_metadata(SpecReader& reader, std::vector<OpenBackend>&& below) {
    MetadataOptions options;
    int formats = 0;
    for (const auto& [key, format] : kMetadataFormats) {
        if (!reader.has(key)) continue;
        options.format = format;
        ++formats;
    }
    if (reader.has("bytes")) {
        options.format.size = static_cast<std::uint8_t>(reader.number("bytes", 1, 255, 8));
        ++formats;
    }
    if (formats != 1) reader.refuse("metadata: of which kind? write crc16, crc64, ip or bytes=N");
    options.path = reader.whole_path("path");
    options.create = reader.has("create");
    if (options.create && options.path.empty()) {
        reader.refuse("metadata: create needs path, the file that is made");
    }
    return wrap(open_metadata, options, below);
}

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
    BackendEntry{.info = {.name = "metadata",
                          .help = "Bytes with each block, such as a checksum that is checked",
                          .options = kMetadataOptions,
                          .examples = kMetadataExamples},
                 .prepare = prepare_metadata},
};

}  // namespace

std::span<const BackendEntry> layer_entries() { return kLayers; }

}  // namespace ashlar::cli
