#include "backends/file/underneath.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <array>
#include <cerrno>
#include <string>

#include <gtest/gtest.h>

#include <ashlar/backend.h>

#include "backends/file/test_directory.h"
#include "base/fd.h"

namespace ashlar::file {
namespace {

// What an NVMe disk says.
Underneath device() {
    return {.block_device = true,
            .direct = true,
            .writable = true,
            .size = 1 << 30,
            .alignment = 512,
            .memory_alignment = 4,
            .physical_block = 4096,
            .io_min = 4096,
            .io_opt = 131072,
            .queue = {.discard_granularity = 4096,
                      .discard_max = std::uint64_t{2} << 40,
                      .write_zeroes_max = 131072,
                      .dma_alignment = 4,
                      .segments_max = 128,
                      .segment_max = 0xffffffff}};
}
constexpr Range kWindow{.offset = 0, .length = 1 << 30};

TEST(QueueLimits, AreReadFromSysfs) {
    const TestDirectory queue;
    const std::array<std::pair<const char*, const char*>, 9> files{
        {{"rotational", "1\n"},
         {"discard_granularity", "4096\n"},
         {"discard_max_bytes", "1073741824\n"},
         {"write_zeroes_max_bytes", "65536\n"},
         {"max_segments", "254\n"},
         {"max_segment_size", "4294967295\n"},
         {"dma_alignment", "511\n"},
         {"zoned", "none\n"},
         {"scheduler", "[none] mq-deadline\n"}}};
    for (const auto& [name, text] : files) static_cast<void>(queue.text(name, text));
    const QueueLimits limits = read_queue_limits(queue.path());
    EXPECT_TRUE(limits.rotational);
    EXPECT_FALSE(limits.zoned);
    EXPECT_EQ(limits.discard_granularity, 4096U);
    EXPECT_EQ(limits.discard_max, 1073741824U);
    EXPECT_EQ(limits.write_zeroes_max, 65536U);
    EXPECT_EQ(limits.segments_max, 254U);
    EXPECT_EQ(limits.segment_max, 4294967295U);
    EXPECT_EQ(limits.dma_alignment, 512U) << "sysfs has a mask";
}

TEST(QueueLimits, WhatIsNotThereOrMakesNoSenseIsZero) {
    const TestDirectory queue;
    for (const std::string& path : {queue / "missing", queue.path()}) {
        const QueueLimits limits = read_queue_limits(path);
        EXPECT_FALSE(limits.rotational);
        EXPECT_FALSE(limits.zoned);
        EXPECT_EQ(limits.discard_max + limits.segments_max + limits.dma_alignment, 0U);
    }
    static_cast<void>(queue.text("max_segments", "many\n"));
    static_cast<void>(queue.text("discard_max_bytes", "99999999999999999999999\n"));
    static_cast<void>(queue.text("zoned", "host-managed\n"));
    static_cast<void>(queue.text("dma_alignment", "0\n"));
    const QueueLimits limits = read_queue_limits(queue.path());
    EXPECT_EQ(limits.segments_max, 0U);
    EXPECT_EQ(limits.discard_max, 0U);
    EXPECT_TRUE(limits.zoned);
    EXPECT_EQ(limits.dma_alignment, 1U) << "any byte, which is not the same as unknown";
}

TEST(GeometryOf, ADeviceIsPassedOn) {
    const Geometry geometry = geometry_of(device(), kWindow, 512);
    ASSERT_TRUE(check_geometry(geometry)) << check_geometry(geometry).error().message();
    EXPECT_EQ(geometry.size, kWindow.length);
    EXPECT_EQ(geometry.logical_block_size, 512U);
    EXPECT_EQ(geometry.physical_block_size, 4096U);
    EXPECT_EQ(geometry.io_min, 4096U);
    EXPECT_EQ(geometry.io_opt, 131072U);
    EXPECT_EQ(geometry.discard_granularity, 4096U);
    EXPECT_EQ(geometry.discard_max, std::uint64_t{2} << 40);
    EXPECT_EQ(geometry.write_zeroes_max, 131072U);
    EXPECT_EQ(geometry.dma_alignment, 4U);
    EXPECT_EQ(geometry.segments_max, 128U);
    EXPECT_EQ(geometry.segment_max, 0xffffffffU);
    EXPECT_FALSE(geometry.rotational);
}

TEST(GeometryOf, TheMemoryOfARequestMattersToDirectIoOnly) {
    Underneath buffered = device();
    buffered.direct = false;
    const Geometry geometry = geometry_of(buffered, kWindow, 512);
    EXPECT_EQ(geometry.dma_alignment, 0U);
    EXPECT_EQ(geometry.segments_max, 0U);
    EXPECT_EQ(geometry.segment_max, 0U);
    EXPECT_EQ(geometry.physical_block_size, 4096U);
}

TEST(GeometryOf, PreferredSizesHoldForAWindowThatBeginsAtOne) {
    const Geometry at_4k = geometry_of(device(), {.offset = 4096, .length = 1 << 20}, 512);
    EXPECT_EQ(at_4k.physical_block_size, 4096U);
    EXPECT_EQ(at_4k.io_min, 4096U);
    EXPECT_EQ(at_4k.io_opt, 0U);
    const Geometry at_512 = geometry_of(device(), {.offset = 512, .length = 1 << 20}, 512);
    EXPECT_EQ(at_512.physical_block_size, 512U);
    EXPECT_EQ(at_512.io_opt, 0U);
}

TEST(GeometryOf, AFileDiscardsInUnitsOfItsFileSystem) {
    Underneath file{.writable = true,
                    .size = 1 << 30,
                    .physical_block = 16384,
                    .allocation_unit = 16384,
                    .punches_holes = true};
    Geometry geometry = geometry_of(file, kWindow, 512);
    EXPECT_EQ(geometry.discard_granularity, 16384U);
    EXPECT_EQ(geometry.physical_block_size, 16384U);
    EXPECT_EQ(geometry.discard_max, 0U) << "no limit of its own";
    file.allocation_unit = file.physical_block = 1024;
    geometry = geometry_of(file, kWindow, 512);
    EXPECT_EQ(geometry.physical_block_size, 4096U);
    EXPECT_EQ(geometry.discard_granularity, 1024U);
    EXPECT_TRUE(check_geometry(geometry));
}

TEST(GeometryOf, NoStrangeValueMakesADiskInvalid) {
    constexpr std::array<std::uint64_t, 22> kStrange{
        0,          1,          2,          3,          511,        512,   513,   1000,
        4095,       4096,       4097,       12288,      65535,      65536, 65537, 196608,
        0x10000000, 0x20000000, 0x7fffffff, 0x80000000, 0xffffffff, ~0ULL};
    for (const std::uint32_t block : {512U, 1024U, 4096U}) {
        for (const std::uint64_t offset : {0U, block, 3 * block, 1U << 20}) {
            for (const bool block_device : {false, true}) {
                for (std::size_t i = 0; i < 11 * kStrange.size(); ++i) {
                    const std::uint64_t value = kStrange[i / 11];
                    const auto narrow = static_cast<std::uint32_t>(value);
                    Underneath strange = device();
                    strange.block_device = block_device;
                    if (i % 11 == 0) strange.memory_alignment = narrow;
                    if (i % 11 == 1) strange.physical_block = narrow;
                    if (i % 11 == 2) strange.io_min = narrow;
                    if (i % 11 == 3) strange.io_opt = narrow;
                    if (i % 11 == 4) strange.allocation_unit = value;
                    if (i % 11 == 5) strange.queue.discard_granularity = value;
                    if (i % 11 == 6) strange.queue.discard_max = value;
                    if (i % 11 == 7) strange.queue.write_zeroes_max = value;
                    if (i % 11 == 8) strange.queue.segments_max = value;
                    if (i % 11 == 9) strange.queue.segment_max = value;
                    if (i % 11 == 10) strange.io_min = strange.io_opt = narrow;
                    const Geometry geometry =
                        geometry_of(strange, {.offset = offset, .length = 1 << 20}, block);
                    const auto valid = check_geometry(geometry);
                    ASSERT_TRUE(valid)
                        << valid.error().message() << ", case " << i % 11 << ", value " << value;
                }
            }
        }
    }
}

class LookUnderneathTest : public testing::Test {
protected:
    static Fd open_it(const std::string& path, int flags = O_RDWR) {
        return Fd(open(path.c_str(), flags | O_CLOEXEC));
    }
    const TestDirectory directory;
};

TEST_F(LookUnderneathTest, ABufferedFileTakesBlocksOf512) {
    const Fd fd = open_it(directory.file("disk", 1 << 20));
    const auto found = look_underneath(fd.get(), false);
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_FALSE(found->block_device);
    EXPECT_TRUE(found->writable);
    EXPECT_EQ(found->size, 1U << 20);
    EXPECT_EQ(found->alignment, 512U);
    EXPECT_GE(found->allocation_unit, 512U);
}

TEST_F(LookUnderneathTest, ADirectFileTakesWhatItsDeviceTakes) {
    if (!directory.has_direct_io()) GTEST_SKIP() << "no O_DIRECT in " << directory.path();
    const Fd fd = open_it(directory.file("disk", 1 << 20), O_RDWR | O_DIRECT);
    const auto found = look_underneath(fd.get(), true);
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_TRUE(found->alignment >= 512 && found->alignment <= 4096) << found->alignment;
    EXPECT_GT(found->memory_alignment, 0U);
}

TEST_F(LookUnderneathTest, ProbingLeavesTheFileAlone) {
    for (const std::string& parent : {TestDirectory::storage(), std::string("/dev/shm")}) {
        const TestDirectory here(parent);
        // No whole number of anything, so that the end is in the middle of a block.
        const std::string content(70'001, 'x');
        const std::string path = here.text("disk", content);
        const Fd fd = open_it(path);
        fsync(fd.get());
        const std::uint64_t space = space_of(path);
        ASSERT_TRUE(look_underneath(fd.get(), false));
        EXPECT_EQ(std::filesystem::file_size(path), content.size());
        EXPECT_EQ(space_of(path), space);
        std::string now(content.size(), ' ');
        std::ifstream(path).read(now.data(), static_cast<std::streamsize>(now.size()));
        EXPECT_EQ(now, content);
    }
}

TEST_F(LookUnderneathTest, AFileThatMayOnlyBeReadGivesNoSpaceBack) {
    const Fd fd = open_it(directory.file("disk", 1 << 20), O_RDONLY);
    const auto found = look_underneath(fd.get(), false);
    ASSERT_TRUE(found);
    EXPECT_FALSE(found->writable);
    EXPECT_FALSE(found->punches_holes);
}

TEST_F(LookUnderneathTest, TmpfsIsMemoryAndADeviceNodeOnItIsNot) {
    const TestDirectory memory(TestDirectory::kMemory);
    EXPECT_TRUE(lies_in_memory(open_it(memory.file("disk", 4096)).get()));
    const Fd node = open_it("/dev/null");
    EXPECT_FALSE(lies_in_memory(node.get()));
    EXPECT_FALSE(lies_in_memory(-1));
}

}  // namespace
}  // namespace ashlar::file
