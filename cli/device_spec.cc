#include "cli/device_spec.h"

#include <fmt/format.h>
#include <array>
#include <utility>

#include "base/cpu_list.h"
#include "cli/cpu_list.h"
#include "cli/spec_reader.h"

namespace ashlar::cli {
namespace {

constexpr std::uint64_t kIdMost = 1'048'575;
constexpr std::uint64_t kIdleMsMost = 3'600'000;

constexpr std::array kInfos = {
    OptionInfo{"id", "N", "N of /dev/ublkbN; default: the lowest free one"},
    OptionInfo{"queues", "N", "Hardware queues, 1 to 4096; default: 1"},
    OptionInfo{"depth", "N", "Requests in flight per queue, 1 to 4096; default: 256"},
    OptionInfo{"io-max", "SIZE", "Largest request, 4K to 32M; default: 1M"},
    OptionInfo{"read-only", "", "Refuse writes"},
    OptionInfo{"keep-scheduler", "",
               "Leave the kernel's I/O scheduler in place; default: none, as of a loop device"},
    OptionInfo{"no-partition-scan", "", "Let the kernel not look for partitions (kernel 7.0)"},
    OptionInfo{"shared-memory", "PATH",
               "A file in memory that programs map and do O_DIRECT from: what lies there is not "
               "copied (kernel 7.1)"},
    OptionInfo{"no-metrics", "",
               "Take no times: 'stats' then counts requests, and has no latencies"},
    OptionInfo{
        .key = "data-path",
        .value = "NAME",
        .help = "How data moves: auto, zero-copy, zero-copy-manual, user-copy, get-data or copy; "
                "default: auto, the cheapest here",
        .choices = "auto zero-copy zero-copy-manual user-copy get-data copy"},
    OptionInfo{.key = "commands",
               .value = "NAME",
               .help = "How requests are fetched: auto, per-io or batch; default: auto",
               .choices = "auto per-io batch"},
    OptionInfo{
        .key = "recovery",
        .value = "NAME",
        .help = "When its server ends: none (the disk goes), queue or reissue (I/O waits for the "
                "next server; queue fails what is in flight), fail (I/O fails until then); "
                "default: none",
        .choices = "none queue reissue fail"},
    OptionInfo{"unprivileged", "",
               "A device of the user who adds it, without being root; needs the udev rules of "
               "Ashlar's package and membership of the group ublk"},
    OptionInfo{"threads", "N",
               "Threads that serve the queues, 1 to 1024; default: one for each queue, but one for "
               "all queues of a file in the page cache"},
    OptionInfo{"threads-per-queue", "N",
               "Threads that share the requests of a queue, 1 to its depth; default: 1"},
    OptionInfo{"cpus", "LIST",
               "CPUs that these threads run on, such as 0-3,8; default: the queues'"},
    OptionInfo{"queue-cpus", "LIST/LIST", "The same queue by queue, such as 0/1/2-3"},
    OptionInfo{"nice", "N",
               "Priority of these threads, -20 (first) to 19 (last), where allowed; default: -20"},
    OptionInfo{"sqpoll", "",
               "A kernel thread per ring takes what is submitted: no system calls while busy, "
               "at the price of a CPU"},
    OptionInfo{"sqpoll-cpu", "N", "The CPU it runs on; default: any"},
    OptionInfo{"sqpoll-idle", "MS",
               "Milliseconds that it spins before it sleeps, 1 or more; default: 1000"},
    OptionInfo{
        "busy-poll", "US",
        "Microseconds, up to 1000, that a thread looks for work before it sleeps, where that "
        "is seldom in vain: less latency, at the price of a CPU; default: 0"},
};

constexpr std::array kDataPaths = {DataPath::automatic,        DataPath::zero_copy,
                                   DataPath::zero_copy_manual, DataPath::user_copy,
                                   DataPath::get_data,         DataPath::copy};
constexpr std::array kRecoveries = {Recovery::none, Recovery::queue, Recovery::reissue,
                                    Recovery::fail};
constexpr std::array kCommandStyles = {CommandStyle::automatic, CommandStyle::per_io,
                                       CommandStyle::batch};

std::uint32_t read_io_max(SpecReader& reader, std::uint32_t fallback) {
    constexpr std::uint32_t page = 4096;
    const std::uint32_t io_max = reader.small_size("io-max", fallback);
    if (io_max < page || io_max > 32U << 20 || io_max % page != 0) {
        reader.refuse(fmt::format("{} is {}; allowed are multiples of 4K from 4K to 32M",
                                  reader.labelled("io-max"), *reader.text("io-max")));
    }
    return io_max;
}

std::vector<std::vector<int>> read_cpus(SpecReader& reader) {
    const std::string* all = reader.text("cpus");
    const std::string* by_queue = reader.text("queue-cpus");
    if (all == nullptr && by_queue == nullptr) return {};
    if (all != nullptr && by_queue != nullptr) {
        reader.refuse(fmt::format("{} and {} say the same in two ways; give one",
                                  reader.labelled("cpus"), reader.labelled("queue-cpus")));
        return {};
    }
    auto lists = parse_queue_cpus(all != nullptr ? *all : *by_queue);
    const bool several = lists && lists->size() > 1;
    if (!lists || (all != nullptr && several)) {
        const std::string sentence = lists ? fmt::format("'{}' has several lists; use {}", *all,
                                                         reader.labelled("queue-cpus"))
                                           : lists.error();
        reader.refuse(fmt::format("{}: {}", reader.labelled(all != nullptr ? "cpus" : "queue-cpus"),
                                  sentence));
        return {};
    }
    return std::move(*lists);
}

std::optional<SubmissionPolling> read_polling(SpecReader& reader) {
    SubmissionPolling polling;
    if (reader.has("sqpoll-cpu")) {
        polling.cpu = static_cast<unsigned>(reader.number("sqpoll-cpu", 0, kCpuMost, 0));
    }
    polling.idle = std::chrono::milliseconds(reader.number(
        "sqpoll-idle", 1, kIdleMsMost, static_cast<std::uint64_t>(polling.idle.count())));
    if (reader.has("sqpoll")) return polling;
    for (const char* key : {"sqpoll-cpu", "sqpoll-idle"}) {
        if (!reader.has(key)) continue;
        reader.refuse(fmt::format("{} needs {}", reader.labelled(key), reader.labelled("sqpoll")));
    }
    return std::nullopt;
}

}  // namespace

std::span<const OptionInfo> device_option_infos() { return kInfos; }

Parsed<DeviceOptions> read_device_options(const Spec& given, std::string_view label) {
    SpecReader reader(given, std::string(label));
    DeviceOptions device;
    const auto small = [&](std::string_view key, std::uint64_t most, std::uint16_t fallback) {
        return static_cast<std::uint16_t>(reader.number(key, 1, most, fallback));
    };
    device.queues = small("queues", 4096, device.queues);
    device.depth = small("depth", 4096, device.depth);
    device.io_max = read_io_max(reader, device.io_max);
    if (reader.has("id")) device.id = static_cast<DeviceId>(reader.number("id", 0, kIdMost, 0));
    device.read_only = reader.has("read-only");
    device.keep_scheduler = reader.has("keep-scheduler");
    device.partition_scan = !reader.has("no-partition-scan");
    if (std::string path = reader.whole_path("shared-memory"); !path.empty()) {
        device.shared_memory.push_back(std::move(path));
    }
    device.measure = !reader.has("no-metrics");
    device.data_path = reader.choice<DataPath>("data-path", kDataPaths, device.data_path);
    device.commands = reader.choice<CommandStyle>("commands", kCommandStyles, device.commands);
    device.recovery = reader.choice<Recovery>("recovery", kRecoveries, device.recovery);
    device.unprivileged = reader.has("unprivileged");
    if (reader.has("threads")) {
        device.thread_count = static_cast<unsigned>(reader.number("threads", 1, 1024, 1));
    }
    device.threads_per_queue = small("threads-per-queue", device.depth, device.threads_per_queue);
    device.cpus = read_cpus(reader);
    device.nice = reader.whole_number("nice", -20, 19, device.nice);
    device.polling = read_polling(reader);
    device.busy_poll = std::chrono::microseconds(
        reader.number("busy-poll", 0, static_cast<std::uint64_t>(kBusyPollMost.count()), 0));
    if (reader.complaint()) return std::unexpected(*reader.complaint());
    return device;
}

}  // namespace ashlar::cli
