#include "cli/device_spec.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

DeviceOptions read(std::vector<SpecOption> options) {
    const auto device = read_device_options({.type = {}, .options = std::move(options)});
    EXPECT_TRUE(device) << device.error();
    return device ? *device : DeviceOptions{};
}

std::string refused(std::vector<SpecOption> options) {
    const auto device = read_device_options({.type = {}, .options = std::move(options)});
    return device ? "accepted" : device.error();
}

TEST(DeviceSpec, WithoutOptionsEverythingIsTheLibrarysDefault) {
    const DeviceOptions device = read({});
    const DeviceOptions plain;
    EXPECT_EQ(device.id, plain.id);
    EXPECT_EQ(device.queues, plain.queues);
    EXPECT_EQ(device.depth, plain.depth);
    EXPECT_EQ(device.io_max, plain.io_max);
    EXPECT_EQ(device.read_only, plain.read_only);
    EXPECT_EQ(device.keep_scheduler, plain.keep_scheduler);
    EXPECT_EQ(device.unprivileged, plain.unprivileged);
    EXPECT_EQ(device.data_path, plain.data_path);
    EXPECT_EQ(device.commands, plain.commands);
    EXPECT_EQ(device.thread_count, plain.thread_count);
    EXPECT_EQ(device.threads_per_queue, plain.threads_per_queue);
    EXPECT_EQ(device.nice, plain.nice);
    EXPECT_FALSE(device.polling);
    EXPECT_EQ(device.busy_poll, plain.busy_poll);
    EXPECT_EQ(device.partition_scan, plain.partition_scan);
    EXPECT_TRUE(device.shared_memory.empty());
    EXPECT_TRUE(device.measure) << "but this";
}

TEST(DeviceSpec, EveryOptionArrives) {
    const std::vector<SpecOption> all = {{"id", "1048575"},
                                         {"queues", "4096"},
                                         {"depth", "64"},
                                         {"io-max", "32M"},
                                         {"read-only"},
                                         {"data-path", "user-copy"},
                                         {"commands", "batch"},
                                         {"threads", "5"},
                                         {"threads-per-queue", "64"},
                                         {"recovery", "reissue"},
                                         {"nice", "-3"},
                                         {"sqpoll"},
                                         {"sqpoll-cpu", "3"},
                                         {"sqpoll-idle", "20"},
                                         {"keep-scheduler"},
                                         {"no-metrics"},
                                         {"unprivileged"},
                                         {"no-partition-scan"},
                                         {"shared-memory", "/dev/shm/area"},
                                         {"cpus", "0-1,4"},
                                         {"busy-poll", "1000"}};
    EXPECT_EQ(all.size() + 1, device_option_infos().size()) << "all but queue-cpus";
    const DeviceOptions device = read(all);
    EXPECT_EQ(device.id, 1'048'575U);
    EXPECT_EQ(device.queues, 4096);
    EXPECT_EQ(device.depth, 64);
    EXPECT_EQ(device.io_max, 32U << 20);
    EXPECT_TRUE(device.read_only);
    EXPECT_TRUE(device.keep_scheduler);
    EXPECT_TRUE(device.unprivileged);
    EXPECT_FALSE(device.measure);
    EXPECT_FALSE(device.partition_scan);
    EXPECT_EQ(device.shared_memory, std::vector<std::string>{"/dev/shm/area"});
    EXPECT_EQ(device.data_path, DataPath::user_copy);
    EXPECT_EQ(device.commands, CommandStyle::batch);
    EXPECT_EQ(device.thread_count, 5U);
    EXPECT_EQ(device.threads_per_queue, 64);
    EXPECT_EQ(device.nice, -3);
    EXPECT_EQ(device.cpus, (std::vector<std::vector<int>>{{0, 1, 4}}));
    EXPECT_EQ(device.recovery, Recovery::reissue);
    ASSERT_TRUE(device.polling);
    EXPECT_EQ(device.polling->cpu, 3U);
    EXPECT_EQ(device.polling->idle, 20ms);
    EXPECT_EQ(device.busy_poll, 1ms);
}

TEST(DeviceSpec, CpusOfAllQueuesOrOfEach) {
    EXPECT_EQ(read({{"queue-cpus", "0/1-2"}}).cpus, (std::vector<std::vector<int>>{{0}, {1, 2}}));
    EXPECT_TRUE(read({}).cpus.empty());
    EXPECT_EQ(refused({{"cpus", "0/1"}}), "--cpus: '0/1' has several lists; use --queue-cpus");
    EXPECT_EQ(refused({{"cpus", "x"}}).substr(0, 33), "--cpus: 'x' is no list of CPUs; w");
    EXPECT_NE(refused({{"cpus", "0"}, {"queue-cpus", "0/1"}}), "accepted");
}

TEST(DeviceSpec, EveryDataPathHasItsName) {
    const std::vector<std::pair<const char*, DataPath>> paths = {
        {"auto", DataPath::automatic},
        {"zero-copy", DataPath::zero_copy},
        {"zero-copy-manual", DataPath::zero_copy_manual},
        {"user-copy", DataPath::user_copy},
        {"get-data", DataPath::get_data},
        {"copy", DataPath::copy}};
    for (const auto& [text, path] : paths) EXPECT_EQ(read({{"data-path", text}}).data_path, path);
}

TEST(DeviceSpec, SaysWhatIsAllowed) {
    EXPECT_EQ(refused({{"queues", "0"}}), "--queues is '0'; allowed are 1 to 4096");
    EXPECT_EQ(refused({{"queues", "-1"}}), "--queues is '-1'; allowed are 1 to 4096");
    EXPECT_EQ(refused({{"depth", "5000"}}), "--depth is '5000'; allowed are 1 to 4096");
    EXPECT_EQ(refused({{"id", "two"}}), "--id is 'two'; allowed are 0 to 1048575");
    EXPECT_EQ(refused({{"io-max", "1000"}}),
              "--io-max is 1000; allowed are multiples of 4K from 4K to 32M");
    EXPECT_EQ(refused({{"io-max", "64M"}}),
              "--io-max is 64M; allowed are multiples of 4K from 4K to 32M");
    EXPECT_EQ(refused({{"io-max", "8G"}}), "--io-max: 8G is too large");
    EXPECT_EQ(refused({{"data-path", "fast"}}),
              "--data-path is 'fast'; allowed are auto, zero-copy, zero-copy-manual, user-copy, "
              "get-data, copy");
    EXPECT_EQ(refused({{"commands", "bulk"}}),
              "--commands is 'bulk'; allowed are auto, per-io, batch");
    EXPECT_EQ(refused({{"threads-per-queue", "0"}}),
              "--threads-per-queue is '0'; allowed are 1 to 256");
    EXPECT_EQ(refused({{"threads-per-queue", "5"}, {"depth", "4"}}),
              "--threads-per-queue is '5'; allowed are 1 to 4");
    EXPECT_EQ(refused({{"sqpoll-cpu", "1"}}), "--sqpoll-cpu needs --sqpoll");
    EXPECT_EQ(refused({{"sqpoll-idle", "1"}}), "--sqpoll-idle needs --sqpoll");
    EXPECT_EQ(refused({{"sqpoll"}, {"sqpoll-idle", "0"}}),
              "--sqpoll-idle is '0'; allowed are 1 to 3600000");
}

}  // namespace
}  // namespace ashlar::cli
