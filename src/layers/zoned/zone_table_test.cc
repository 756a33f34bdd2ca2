#include "layers/zoned/zone_table.h"

#include <sys/resource.h>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>

#include "backends/file/test_directory.h"

namespace ashlar::layers {
namespace {

constexpr std::uint64_t kZone = 1 << 20;
constexpr std::uint64_t kSize = 8 * kZone;

class ZoneTableTest : public testing::Test {
protected:
    void open(ZonedOptions with = {}) {
        with.zone_size = kZone;
        options = with;
        table.reset();
        auto opened = ZoneTable::open(kSize, options);
        ASSERT_TRUE(opened) << opened.error().message();
        table = std::move(*opened);
    }
    Zone zone(std::uint64_t index) {
        std::vector<Zone> zones(1);
        EXPECT_EQ(table->report(index * kZone, zones), 1U);
        return zones[0];
    }
    int write(std::uint64_t offset, std::uint64_t length) {
        return table->begin_write({offset, length});
    }
    file::TestDirectory directory;
    ZonedOptions options;
    std::unique_ptr<ZoneTable> table;
};

TEST_F(ZoneTableTest, ReportsWhatThereIs) {
    open({.capacity = kZone / 2, .conventional = 2});
    std::vector<Zone> zones(20);
    ASSERT_EQ(table->report(0, zones), 8U);
    EXPECT_EQ(zones[1].type, ZoneType::conventional);
    EXPECT_EQ(zones[1].condition, ZoneCondition::not_write_pointer);
    EXPECT_EQ(zones[1].capacity, kZone);
    EXPECT_EQ(zones[2].type, ZoneType::sequential);
    EXPECT_EQ(zones[2].condition, ZoneCondition::empty);
    EXPECT_EQ(zones[2].start, 2 * kZone);
    EXPECT_EQ(zones[2].length, kZone);
    EXPECT_EQ(zones[2].capacity, kZone / 2);
    EXPECT_EQ(zones[2].write_pointer, 2 * kZone);
    EXPECT_EQ(table->report(7 * kZone + 5, zones), 1U) << "from the zone that has this byte";
    EXPECT_EQ(zones[0].start, 7 * kZone);
}

TEST_F(ZoneTableTest, IsWrittenFromItsStartOn) {
    open();
    EXPECT_EQ(write(4096, 4096), EIO);
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_EQ(zone(0).condition, ZoneCondition::implicitly_open);
    EXPECT_EQ(zone(0).write_pointer, 4096U);
    EXPECT_EQ(write(8192, 4096), EIO);
    EXPECT_EQ(write(4096, kZone - 4096), 0);
    EXPECT_EQ(zone(0).condition, ZoneCondition::full);
    EXPECT_EQ(zone(0).write_pointer, kZone);
    EXPECT_EQ(write(0, 4096), EIO);
}

TEST_F(ZoneTableTest, TheLastWriteMayComeAgain) {
    open();
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_EQ(write(4096, 8192), 0);
    EXPECT_EQ(write(4096, 8192), 0);
    EXPECT_EQ(zone(0).write_pointer, 12288U);
    EXPECT_EQ(write(0, 4096), EIO) << "an earlier one may not";
    EXPECT_EQ(write(4096, 4096), EIO) << "nor a part of it";
    EXPECT_EQ(write(12288, kZone - 12288), 0);
    EXPECT_EQ(write(12288, kZone - 12288), 0) << "also the one that made it full";
}

TEST_F(ZoneTableTest, AWriteThatFailedMayBeTriedAgain) {
    open();
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_EQ(write(4096, kZone - 4096), 0);
    table->write_failed({4096, kZone - 4096});
    EXPECT_EQ(zone(0).condition, ZoneCondition::closed);
    EXPECT_EQ(zone(0).write_pointer, 4096U);
    EXPECT_EQ(write(0, 4096), EIO);
    EXPECT_EQ(write(4096, 512), 0);
    table->write_failed({4096, kZone - 4096});
    EXPECT_EQ(zone(0).write_pointer, 4608U) << "something was written since";
}

TEST_F(ZoneTableTest, AppendsGoWhereTheWritePointerIs) {
    open({.conventional = 1});
    EXPECT_EQ(table->begin_append(kZone, 4096).value(), kZone);
    EXPECT_EQ(table->begin_append(kZone, 512).value(), kZone + 4096);
    EXPECT_EQ(table->begin_append(kZone, kZone).error(), EIO);
    EXPECT_EQ(table->begin_append(kZone + 512, 512).error(), EIO);
    EXPECT_EQ(table->begin_append(0, 512).error(), EIO);
}

TEST_F(ZoneTableTest, NothingGoesBeyondTheCapacity) {
    open({.capacity = 8192});
    EXPECT_EQ(write(0, 12288), EIO);
    EXPECT_EQ(zone(0).condition, ZoneCondition::empty);
    EXPECT_EQ(write(0, 8192), 0);
    EXPECT_EQ(zone(0).condition, ZoneCondition::full);
    EXPECT_EQ(table->written_end(5), 8192U);
}

TEST_F(ZoneTableTest, Operations) {
    open({.conventional = 1});
    const auto start = kZone;
    EXPECT_EQ(table->open_zone(start), 0);
    EXPECT_EQ(zone(1).condition, ZoneCondition::explicitly_open);
    EXPECT_EQ(table->close_zone(start), 0);
    EXPECT_EQ(zone(1).condition, ZoneCondition::empty);
    EXPECT_EQ(write(start, 4096), 0);
    EXPECT_EQ(table->close_zone(start), 0);
    EXPECT_EQ(zone(1).condition, ZoneCondition::closed);
    EXPECT_EQ(table->finish_zone(start), 0);
    EXPECT_EQ(zone(1).condition, ZoneCondition::full);
    EXPECT_EQ(table->written_end(start), start + 4096) << "what is beyond reads as zeroes";
    EXPECT_EQ(table->open_zone(start), EIO);
    EXPECT_EQ(table->close_zone(start), EIO);
    EXPECT_EQ(table->reset_zone(start), 0);
    EXPECT_EQ(zone(1).condition, ZoneCondition::empty);
    EXPECT_EQ(zone(1).write_pointer, start);
    for (const int error :
         {table->open_zone(0), table->close_zone(0), table->finish_zone(0), table->reset_zone(0)}) {
        EXPECT_EQ(error, EIO) << "a conventional zone has none of this";
    }
}

TEST_F(ZoneTableTest, AZoneThatIsResetIsNotWritten) {
    open();
    EXPECT_TRUE(table->is_empty(0));
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_FALSE(table->is_empty(0));
    EXPECT_TRUE(table->begin_reset(0));
    EXPECT_FALSE(table->begin_reset(0)) << "once at a time";
    EXPECT_TRUE(table->is_being_written(0));
    EXPECT_EQ(write(4096, 4096), EIO);
    EXPECT_EQ(table->begin_append(0, 4096).error(), EIO);
    table->end_write(512);
    EXPECT_FALSE(table->is_being_written(0));
    EXPECT_EQ(table->reset_zone(0), 0);
    EXPECT_EQ(write(0, 4096), EIO) << "what it held is still being thrown away";
    EXPECT_EQ(write(kZone, 4096), 0) << "another zone";
    table->end_reset(0);
    EXPECT_TRUE(table->is_empty(0));
    EXPECT_EQ(table->begin_append(0, 4096).value(), 0U);
    EXPECT_TRUE(table->is_being_written(0));
}

TEST_F(ZoneTableTest, AServerThatEndsInAResetLeavesTheZoneEmpty) {
    const std::string state = directory / "zones";
    open({.state = state, .create = true});
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_TRUE(table->begin_reset(0));
    EXPECT_EQ(table->reset_zone(0), 0);
    open({.state = state});
    EXPECT_TRUE(table->is_empty(0));
    EXPECT_TRUE(table->begin_reset(0)) << "the kernel asks again";
    table->end_reset(0);
    EXPECT_EQ(write(0, 4096), 0);
}

TEST_F(ZoneTableTest, LimitsHold) {
    open({.open_max = 2, .active_max = 3});
    EXPECT_EQ(table->open_zone(0), 0);
    EXPECT_EQ(write(kZone, 4096), 0);
    EXPECT_EQ(write(2 * kZone, 4096), 0) << "zone 1, opened by a write, gives its place";
    EXPECT_EQ(zone(1).condition, ZoneCondition::closed);
    EXPECT_EQ(write(3 * kZone, 4096), EOVERFLOW) << "three are active";
    EXPECT_EQ(table->finish_zone(1 * kZone), 0);
    EXPECT_EQ(table->open_zone(3 * kZone), 0);
    EXPECT_EQ(write(2 * kZone + 4096, 4096), ETOOMANYREFS) << "nobody gives its place";
    EXPECT_EQ(table->reset_zone(0), 0);
    EXPECT_EQ(write(2 * kZone + 4096, 4096), 0);
}

TEST_F(ZoneTableTest, StaysInItsFile) {
    const std::string state = directory / "zones";
    open({.state = state, .create = true});
    EXPECT_EQ(write(0, 4096), 0);
    EXPECT_EQ(table->open_zone(kZone), 0);
    EXPECT_EQ(table->finish_zone(2 * kZone), 0);
    EXPECT_EQ(ZoneTable::open(kSize, options).error().code, EEXIST);
    options.create = false;
    EXPECT_EQ(ZoneTable::open(kSize, options).error().code, EBUSY);
    open({.state = state});
    EXPECT_EQ(zone(0).condition, ZoneCondition::closed);
    EXPECT_EQ(zone(0).write_pointer, 4096U);
    EXPECT_EQ(zone(1).condition, ZoneCondition::empty) << "no zone is open to a new server";
    EXPECT_EQ(zone(2).condition, ZoneCondition::full);
    EXPECT_EQ(write(0, 4096), 0) << "the last write of the server before";
    EXPECT_GE(table->file(), 0);
}

TEST_F(ZoneTableTest, AFileThatCannotBeMadeIsGone) {
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
    const auto old = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string state = directory / "zones";
    EXPECT_EQ(
        ZoneTable::open(kSize, {.zone_size = kZone, .state = state, .create = true}).error().code,
        EFBIG);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    static_cast<void>(std::signal(SIGXFSZ, old));
    EXPECT_FALSE(std::filesystem::exists(state));
}

TEST_F(ZoneTableTest, RefusesAnothersFile) {
    const std::string state = directory / "zones";
    open({.state = state, .create = true});
    table.reset();
    EXPECT_EQ(ZoneTable::open(2 * kSize, {.zone_size = kZone, .state = state}).error().code,
              EINVAL);
    EXPECT_EQ(ZoneTable::open(kSize, {.zone_size = kZone, .conventional = 1, .state = state})
                  .error()
                  .code,
              EINVAL);
    EXPECT_EQ(
        ZoneTable::open(kSize, {.zone_size = kZone, .state = directory / "none"}).error().code,
        ENOENT);
    std::ofstream(directory / "text") << "hello";
    EXPECT_EQ(
        ZoneTable::open(kSize, {.zone_size = kZone, .state = directory / "text"}).error().code,
        EINVAL);
}

}  // namespace
}  // namespace ashlar::layers
