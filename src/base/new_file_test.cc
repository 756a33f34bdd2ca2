#include "base/new_file.h"

#include <fcntl.h>
#include <cerrno>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "backends/file/test_directory.h"
#include "base/fd.h"

namespace ashlar {
namespace {

TEST(NewFile, IsGoneUnlessItIsKept) {
    const file::TestDirectory directory;
    const std::string path = directory.text("new", "content");
    {
        NewFile file(path);
        file.keep();
    }
    EXPECT_TRUE(std::filesystem::exists(path));
    { const NewFile file(path); }
    EXPECT_FALSE(std::filesystem::exists(path));
    const NewFile none("");
}

TEST(NewFile, IsDurableWithItsName) {
    const file::TestDirectory directory;
    const std::string path = directory.text("new", "content");
    const Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(make_durable(file.get(), path), 0);
    EXPECT_EQ(make_durable(-1, path), EBADF);
    EXPECT_EQ(make_durable(file.get(), "/no/such/directory/file"), ENOENT);
    EXPECT_EQ(make_durable(file.get(), "name-without-a-directory"), 0);
}

}  // namespace
}  // namespace ashlar
