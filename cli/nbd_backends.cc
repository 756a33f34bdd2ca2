#include "cli/nbd_backends.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <utility>

#include <ashlar/nbd.h>

#include "cli/nbd_uri.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

Level level_of(NbdEvent::Kind kind) {
    const bool good = kind == NbdEvent::Kind::back || kind == NbdEvent::Kind::resized;
    return good ? Level::info : Level::warning;
}

OpenBackend open_with(NbdOptions options) {
    return [options = std::move(options)](const Report& report) mutable {
        options.on_event = [report](const NbdEvent& event) {
            report(level_of(event.kind), event.text);
        };
        return open_nbd(options);
    };
}

// ---- nbd ---------------------------------------------------------------------------------------

constexpr std::array kNbdOptions = {
    OptionInfo{"read-only", "", "Do not write, though the server would let us"},
    OptionInfo{"reconnect", "SECONDS",
               "When the connection is lost, requests wait so long for another; then they fail "
               "with ETIMEDOUT; default: 0, they fail at once"},
    OptionInfo{"timeout", "SECONDS",
               "How long the server may take to connect, or say nothing while it owes an answer, "
               "before the connection counts as lost; default: 30"},
};

constexpr std::array<std::string_view, 3> kNbdExamples = {
    "nbd nbd://storage.example/disk1 --queues 2 --reconnect 60",
    "nbd 'nbd+unix:///?socket=/run/disk.sock'",
    "nbd -- nbdkit curl https://storage.example/disk.img",
};

// Before the server locks its memory and lets go of file systems. What is wrong with it is told
// when the disk is opened.
void load_early() { static_cast<void>(load_nbd()); }

OpenBackend prepare_nbd(SpecReader& reader, std::vector<OpenBackend>&&) {
    load_early();
    constexpr std::uint64_t day = 86'400;
    NbdOptions options{.uri = reader.uri(), .read_only = reader.has("read-only")};
    options.reconnect = std::chrono::seconds(reader.number("reconnect", 0, day, 0));
    options.timeout = std::chrono::seconds(reader.number("timeout", 1, day, 30));
    return open_with(std::move(options));
}

// ---- image -------------------------------------------------------------------------------------

constexpr std::array kImageOptions = {
    OptionInfo{"format", "FORMAT",
               "What QEMU calls it: qcow2, vmdk, vdi, vhdx, vpc, raw, ...; default: by the name's "
               "ending"},
    OptionInfo{"read-only", "", "Do not write to it"},
    OptionInfo{"socket", "PATH", "Where a program serves it already; default: qemu-nbd is started"},
};

constexpr std::array<std::string_view, 2> kImageExamples = {
    "image disk.qcow2",
    "image disk.img --format vmdk --read-only",
};

struct Ending {
    std::string_view ending;
    std::string_view format;
};
// Not found out from the content: what a disk's user writes into its first block could make another
// format of it, which names files of this machine.
constexpr std::array kEndings = {
    Ending{".qcow2", "qcow2"}, Ending{".qcow", "qcow"}, Ending{".qed", "qed"},
    Ending{".vmdk", "vmdk"},   Ending{".vdi", "vdi"},   Ending{".vhdx", "vhdx"},
    Ending{".vhd", "vpc"},     Ending{".vpc", "vpc"},   Ending{".raw", "raw"},
};

constexpr std::array<std::string_view, 13> kImageFormats = {
    "qcow2", "vmdk",      "vdi", "vhdx",  "vpc",   "raw", "qcow",
    "qed",   "parallels", "dmg", "cloop", "bochs", "luks"};

const SpecOption* find_option(const Spec& spec, std::string_view key) {
    const auto found = std::ranges::find(spec.options, key, &SpecOption::key);
    return found == spec.options.end() ? nullptr : &*found;
}

std::string format_of(const Spec& spec) {
    if (const SpecOption* given = find_option(spec, "format")) return given->value.value_or("");
    for (const auto& [ending, format] : kEndings) {
        if (spec.path.ends_with(ending)) return std::string(format);
    }
    return {};
}

std::vector<std::string> program_of_image(const Spec& spec) {
    if (find_option(spec, "socket") != nullptr) return {};
    std::vector<std::string> words{"qemu-nbd",         "--persistent",  "--shared=0",
                                   "--format",         format_of(spec), "--discard=unmap",
                                   "--cache=writeback"};
    if (find_option(spec, "read-only") != nullptr) words.emplace_back("--read-only");
    words.insert(words.end(), {"--", spec.path});
    return words;
}

OpenBackend prepare_image(SpecReader& reader, std::vector<OpenBackend>&&) {
    load_early();
    if (const std::string* const format = reader.text("format");
        format != nullptr && std::ranges::find(kImageFormats, *format) == kImageFormats.end()) {
        reader.refuse(fmt::format("{} is '{}'; allowed are {}", reader.labelled("format"), *format,
                                  fmt::join(kImageFormats, ", ")));
    }
    const std::string* const socket = reader.text("socket");
    if (socket != nullptr && !socket->starts_with('/')) {
        reader.refuse(fmt::format("{} is '{}'; write the whole path, from /",
                                  reader.labelled("socket"), *socket));
    }
    if (socket == nullptr && format_of(reader.spec()).empty()) {
        reader.refuse(
            fmt::format("{} is missing, and the name {} does not tell it; write qcow2, vmdk, raw, "
                        "or what else it is",
                        reader.labelled("format"), reader.path()));
    }
    // A slow disk is no reason to let go of it; a program that ended is noticed at once.
    return open_with({.uri = uri_of_socket(socket != nullptr ? *socket : ""),
                      .read_only = reader.has("read-only"),
                      .timeout = 10min});
}

}  // namespace

BackendEntry nbd_entry() {
    return {.info = {.name = "nbd",
                     .help = "A disk that another program or machine serves by NBD",
                     .argument = Argument::uri,
                     .argument_help = "Where: nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket="
                                      "PATH or nbd+vsock://CID/EXPORT, or nbds for TLS. Or after "
                                      "--, a program and its arguments: it is given a socket to "
                                      "serve (systemd's socket activation), and ends with the "
                                      "device",
                     .options = kNbdOptions,
                     .examples = kNbdExamples},
            .prepare = prepare_nbd,
            .program = [](const Spec& spec) { return spec.command; },
            .serve =
                [](Spec& spec, const std::string& socket) {
                    spec.uri = uri_of_socket(socket);
                    spec.command.clear();
                },
            .reopens = [](const Spec& spec) { return paths_of_uri(spec.uri); }};
}

BackendEntry image_entry() {
    return {.info = {.name = "image",
                     .help = "A disk in an image file of another format, by qemu-nbd",
                     .argument = Argument::path,
                     .argument_help = "Of the image",
                     .options = kImageOptions,
                     .examples = kImageExamples},
            .prepare = prepare_image,
            .program = program_of_image,
            .serve =
                [](Spec& spec, const std::string& socket) {
                    spec.options.push_back({.key = "socket", .value = socket});
                },
            .reopens =
                [](const Spec& spec) {
                    const SpecOption* const socket = find_option(spec, "socket");
                    return socket == nullptr ? std::vector<std::string>()
                                             : std::vector{socket->value.value_or("")};
                }};
}

}  // namespace ashlar::cli
