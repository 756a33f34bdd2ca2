// ashlar add TYPE: starts a server and returns when its block device is usable.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <ashlar/backends.h>

#include "base/fd.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/server.h"

namespace ashlar::cli {
namespace {

constexpr DeviceId kIdMost = 1'048'575;

// What the command line said, as text: every check answers in our own words.
struct AddOptions {
    std::optional<std::string> size;
    std::optional<std::string> block_size;
    std::optional<std::string> physical_block_size;
    std::optional<std::string> io_max;
    std::optional<std::string> id;
    std::optional<std::string> queues;
    std::optional<std::string> depth;
    std::string log_file;
    bool read_only = false;
    bool foreground = false;
    bool json = false;
    bool hugepages = false;
    bool no_fill = false;
};

struct UsageError {
    std::string message;
};
template <class T>
using Parsed = std::expected<T, UsageError>;

Parsed<std::uint64_t> size_option(std::string_view option, const std::optional<std::string>& text,
                                  std::uint64_t fallback) {
    if (!text) return fallback;
    auto size = parse_size(*text);
    if (!size) return std::unexpected(UsageError{fmt::format("{}: {}", option, size.error())});
    return *size;
}

Parsed<std::uint32_t> small_size_option(std::string_view option,
                                        const std::optional<std::string>& text,
                                        std::uint32_t fallback) {
    auto size = size_option(option, text, fallback);
    if (!size) return std::unexpected(size.error());
    if (*size > UINT32_MAX) {
        return std::unexpected(UsageError{fmt::format("{}: {} is too large", option, *text)});
    }
    return static_cast<std::uint32_t>(*size);
}

// Decimal digits only: 010 is ten.
Parsed<std::uint32_t> number_option(std::string_view option, const std::optional<std::string>& text,
                                    std::uint32_t least, std::uint32_t most,
                                    std::uint32_t fallback) {
    if (!text) return fallback;
    std::uint32_t value = 0;
    const char* end = text->data() + text->size();
    const auto parsed = std::from_chars(text->data(), end, value);
    if (parsed.ec != std::errc{} || parsed.ptr != end || value < least || value > most) {
        return std::unexpected(UsageError{
            fmt::format("{} is '{}'; allowed are {} to {}", option, *text, least, most)});
    }
    return value;
}

Parsed<Geometry> parse_geometry(const AddOptions& options, std::uint64_t default_size) {
    auto size = size_option("--size", options.size, default_size);
    if (!size) return std::unexpected(size.error());
    auto block = small_size_option("--block-size", options.block_size, 512);
    if (!block) return std::unexpected(block.error());
    auto physical = small_size_option("--physical-block-size", options.physical_block_size,
                                      std::max<std::uint32_t>(*block, 4096));
    if (!physical) return std::unexpected(physical.error());
    const Geometry geometry{
        .size = *size, .logical_block_size = *block, .physical_block_size = *physical};
    if (auto valid = check_geometry(geometry); !valid) {
        return std::unexpected(UsageError{valid.error().detail});
    }
    return geometry;
}

Parsed<DeviceOptions> parse_device_options(const AddOptions& options) {
    DeviceOptions device{.read_only = options.read_only};
    auto queues = number_option("--queues", options.queues, 1, 4096, device.queues);
    if (!queues) return std::unexpected(queues.error());
    auto depth = number_option("--depth", options.depth, 1, 4096, device.depth);
    if (!depth) return std::unexpected(depth.error());
    auto io_max = small_size_option("--io-max", options.io_max, device.io_max);
    if (!io_max) return std::unexpected(io_max.error());
    constexpr std::uint32_t page = 4096;
    if (*io_max < page || *io_max > 32U << 20 || *io_max % page != 0) {
        return std::unexpected(UsageError{fmt::format(
            "--io-max is {}; allowed are multiples of 4K from 4K to 32M", *options.io_max)});
    }
    if (options.id) {
        auto id = number_option("--id", options.id, 0, kIdMost, 0);
        if (!id) return std::unexpected(id.error());
        device.id = *id;
    }
    device.queues = static_cast<std::uint16_t>(*queues);
    device.depth = static_cast<std::uint16_t>(*depth);
    device.io_max = *io_max;
    return device;
}

bool write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

std::string read_all(int fd) {
    std::string text;
    std::array<char, 4096> piece{};
    while (true) {
        const ssize_t got = read(fd, piece.data(), piece.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return text;
        text.append(piece.data(), static_cast<std::size_t>(got));
    }
}

bool announce_by_pipe(Fd& pipe, const Result<DeviceId>& result) {
    const nlohmann::json json = result ? nlohmann::json{{"id", *result}}
                                       : nlohmann::json{{"error", result.error().message()}};
    const bool heard = write_all(pipe.get(), json.dump());
    pipe.reset();
    return heard;
}

// What the caller left open (a lock, a pipe) is not the server's to hold.
void close_all_but(int one, int other) {
    const auto [low, high] = std::minmax(one, other);
    unsigned next = STDERR_FILENO + 1;
    for (const int keep : {low, high}) {
        if (keep < static_cast<int>(next)) continue;
        const auto kept = static_cast<unsigned>(keep);
        if (kept > next) close_range(next, kept - 1, 0);
        next = kept + 1;
    }
    close_range(next, ~0U, 0);
}

// The server's own life: a session without terminal, nothing open but what it needs.
[[noreturn]] void run_background_server(const ServerJob& job, const Log& log, Fd pipe) {
    setsid();
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        const Fd null(open("/dev/null", O_RDWR));
        dup2(null.get(), fd);
    }
    close_all_but(pipe.get(), log.descriptor());
    static_cast<void>(chdir("/"));
    const int status = run_server(
        job, log, [&](const Result<DeviceId>& result) { return announce_by_pipe(pipe, result); });
    std::exit(status);
}

std::string how_it_ended(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        return fmt::format("the server was killed by signal {} before the device was usable",
                           WTERMSIG(status));
    }
    return fmt::format("the server ended with status {} before the device was usable",
                       WEXITSTATUS(status));
}

Result<DeviceId> start_background_server(const ServerJob& job, const Log& log,
                                         std::string& complaint) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        return std::unexpected(Error{.operation = "start the server", .code = errno});
    }
    Fd reader(ends[0]);
    Fd writer(ends[1]);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) {
        return std::unexpected(Error{.operation = "start the server",
                                     .code = errno,
                                     .hint = "raise the limit on processes (ulimit -u)"});
    }
    if (child == 0) {
        reader.reset();
        run_background_server(job, log, std::move(writer));
    }
    writer.reset();
    const auto json = nlohmann::json::parse(read_all(reader.get()), nullptr, false);
    if (json.is_object() && json.contains("id")) return json["id"].get<DeviceId>();
    const std::string ended = how_it_ended(child);
    complaint = json.is_object() ? json.value("error", ended) : ended;
    return std::unexpected(Error{.operation = "start the server", .code = EIO});
}

int print_device(DeviceId id, const DeviceOptions& asked, bool as_json) {
    auto control = Control::open();
    if (!control) return fail(control.error());
    auto info = control->info(id);
    if (!info) return fail(info.error());
    if (info->queues != asked.queues) {
        complain(fmt::format("note: {} queues instead of {}: the kernel uses at most one per CPU",
                             info->queues, asked.queues));
    }
    if (!as_json) {
        fmt::print("/dev/ublkb{}\n", id);
        return kSuccess;
    }
    auto report = report_device(*control, *info);
    if (!report) return fail(report.error());
    fmt::print("{}\n", to_json(*report).dump());
    return kSuccess;
}

Result<Log> open_log(const AddOptions& options) {
    if (!options.log_file.empty()) return Log::to_file(options.log_file);
    return options.foreground ? Log::to_stderr() : Log::to_syslog();
}

int run_add(const AddOptions& options, ServerJob job) {
    auto device = parse_device_options(options);
    if (!device) {
        complain(device.error().message);
        return kUsage;
    }
    job.device = *device;
    auto log = open_log(options);
    if (!log) return fail(log.error());
    if (options.foreground) {
        const bool log_shows_errors = options.log_file.empty();
        return run_server(job, *log, [&](const Result<DeviceId>& result) {
            if (result) {
                const bool printed = print_device(*result, job.device, options.json) == kSuccess;
                return std::fflush(stdout) == 0 && printed;
            }
            if (!log_shows_errors) complain(result.error().message());
            return true;
        });
    }
    std::string complaint;
    auto id = start_background_server(job, *log, complaint);
    if (!id) {
        complain(complaint.empty() ? id.error().message() : complaint);
        return kFailure;
    }
    int status = print_device(*id, job.device, options.json);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) status = kFailure;
    if (status != kSuccess) {
        // A device that nobody was told of would stay for ever.
        complain(fmt::format("cannot say which device it is; ublk{} is removed again", *id));
        auto control = Control::open();
        if (control) static_cast<void>(control->remove(*id));
    }
    return status;
}

void common_options(CLI::App& type, AddOptions& options) {
    type.add_option("--id", options.id, "N of /dev/ublkbN; default: the lowest free one")
        ->type_name("N");
    type.add_option("--queues", options.queues,
                    "Hardware queues, each with its own thread, 1 to 4096; default: 1")
        ->type_name("N");
    type.add_option("--depth", options.depth,
                    "Requests in flight per queue, 1 to 4096; default: 128")
        ->type_name("N");
    type.add_option("--block-size", options.block_size,
                    "Logical block size: 512, 1K, 2K or 4K; default: 512")
        ->type_name("SIZE");
    type.add_option("--physical-block-size", options.physical_block_size,
                    "Physical block size; default: 4K")
        ->type_name("SIZE");
    type.add_option("--io-max", options.io_max, "Largest request, 4K to 32M; default: 1M")
        ->type_name("SIZE");
    type.add_flag("--read-only", options.read_only, "Refuse writes");
    type.add_flag("--foreground", options.foreground,
                  "Serve in this process; Ctrl-C removes the device");
    type.add_option("--log", options.log_file,
                    "Append messages to FILE; default: syslog, or stderr in the foreground")
        ->type_name("FILE");
    type.add_flag("--json", options.json, "Print one JSON object instead of the path");
}

}  // namespace

void add_command(CLI::App& app, Action& action) {
    CLI::App& add = *app.add_subcommand("add", "Make a block device");
    add.require_subcommand(1);
    add.footer("Example:\n  ashlar add mem --size 1G --queues 2");

    auto options = std::make_shared<AddOptions>();
    CLI::App& mem = *add.add_subcommand("mem", "A sparse disk in memory; gone when removed");
    mem.add_option("--size", options->size, "Bytes, or with K, M, G, T: 512M")
        ->type_name("SIZE")
        ->required();
    mem.add_flag("--hugepages", options->hugepages, "Ask for transparent huge pages");
    common_options(mem, *options);
    mem.callback([options, &action] {
        action = [options] {
            auto geometry = parse_geometry(*options, 0);
            if (!geometry) {
                complain(geometry.error().message);
                return kUsage;
            }
            const MemoryOptions memory{.geometry = *geometry, .hugepages = options->hugepages};
            return run_add(*options, {.type = "mem",
                                      .open_backend = [memory] { return open_memory(memory); },
                                      .device = {}});
        };
    });

    CLI::App& null = *add.add_subcommand("null", "Reads zeroes, drops writes: for measuring");
    null.add_option("--size", options->size, "Bytes, or with K, M, G, T; default: 250G")
        ->type_name("SIZE");
    null.add_flag("--no-fill", options->no_fill,
                  "Leave read buffers as they are: what is read is undefined");
    common_options(null, *options);
    null.callback([options, &action] {
        action = [options] {
            constexpr std::uint64_t default_size = std::uint64_t{250} << 30;
            auto geometry = parse_geometry(*options, default_size);
            if (!geometry) {
                complain(geometry.error().message);
                return kUsage;
            }
            const NullOptions null_options{.geometry = *geometry, .fill = !options->no_fill};
            return run_add(*options,
                           {.type = "null",
                            .open_backend = [null_options] { return open_null(null_options); },
                            .device = {}});
        };
    });
}

}  // namespace ashlar::cli
