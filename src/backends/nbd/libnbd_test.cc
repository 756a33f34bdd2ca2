#include "backends/nbd/libnbd.h"

#include <gtest/gtest.h>

#include <cerrno>

#include <ashlar/nbd.h>

namespace ashlar::nbd {
namespace {

TEST(Libnbd, IsLoadedOnce) {
    ASSERT_TRUE(load_nbd());
    const Libnbd* const first = &libnbd();
    ASSERT_TRUE(load_nbd());
    EXPECT_EQ(&libnbd(), first);
    nbd_handle* const handle = libnbd().create();
    ASSERT_NE(handle, nullptr);
    EXPECT_EQ(libnbd().aio_is_dead(handle), 0);
    libnbd().close(handle);
}

TEST(Libnbd, OneThatIsMissingSaysSo) {
    const auto missing = load_libnbd("libnbd.so.77");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ENOENT);
    EXPECT_NE(missing.error().message().find("libnbd.so.77"), std::string::npos);
    EXPECT_NE(missing.error().hint.find("libnbd0"), std::string::npos);
}

TEST(Libnbd, AnotherLibraryIsNotIt) {
    const auto other = load_libnbd("libc.so.6");
    ASSERT_FALSE(other);
    EXPECT_NE(other.error().detail.find("nbd_"), std::string::npos) << other.error().detail;
}

}  // namespace
}  // namespace ashlar::nbd
