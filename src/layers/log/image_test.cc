#include "layers/log/image.h"

#include <sys/stat.h>
#include <cerrno>

#include <gtest/gtest.h>

#include "layers/log/test_place.h"

namespace ashlar::layers {
namespace {

constexpr std::uint64_t kSize = 1 << 20;

class ImageTest : public testing::Test {
protected:
    void fill(Image& image, Range range, char content) {
        const std::vector<std::byte> data(range.length, static_cast<std::byte>(content));
        ASSERT_TRUE(image.write(range.offset, data));
    }
    [[nodiscard]] std::string content() const { return TestPlace::content(path); }
    [[nodiscard]] std::uint64_t space() const {
        struct stat status{};
        stat(path.c_str(), &status);
        return static_cast<std::uint64_t>(status.st_blocks) * 512;
    }

    TestPlace place;
    std::string path = place / "image";
};

TEST_F(ImageTest, IsMadeSparseAndZero) {
    ASSERT_TRUE(Image::open(path, kSize, false));
    EXPECT_EQ(content(), std::string(kSize, '\0'));
    EXPECT_LE(space(), 4096U);
}

TEST_F(ImageTest, WritesZeroesAndReads) {
    Image image = Image::open(path, kSize, false).value();
    fill(image, {0, kSize}, 'a');
    ASSERT_TRUE(image.zero({4096, 512}));
    std::string expected(kSize, 'a');
    expected.replace(4096, 512, 512, '\0');
    EXPECT_EQ(content(), expected);
    std::vector<std::byte> read(2);
    ASSERT_TRUE(image.read(4607, read));
    EXPECT_EQ(read, (std::vector{std::byte{0}, static_cast<std::byte>('a')}));
    EXPECT_EQ(image.read(kSize - 1, read).error().code, EIO);
}

TEST_F(ImageTest, WhatIsSavedIsRestored) {
    Image image = Image::open(path, kSize, false).value();
    fill(image, {8192, 300'000}, 'a');
    const std::string before = content();
    ASSERT_TRUE(image.save({{4096, 8192}, {512, 512}, {8192, 400'000}, {kSize - 512, 512}}));
    fill(image, {4096, 404'096}, 'b');
    fill(image, {512, 512}, 'c');
    fill(image, {kSize - 512, 512}, 'd');
    EXPECT_NE(content(), before);
    ASSERT_TRUE(image.restore());
    EXPECT_EQ(content(), before);
    fill(image, {0, 4096}, 'e');
    ASSERT_TRUE(image.restore()) << "once";
    EXPECT_EQ(content().substr(0, 4096), std::string(4096, 'e'));
    // And once more, with nothing left of the first time.
    ASSERT_TRUE(image.save({{0, kSize}}));
    fill(image, {0, kSize}, 'f');
    ASSERT_TRUE(image.restore());
    EXPECT_EQ(content().substr(4096), before.substr(4096));
}

TEST_F(ImageTest, HolesStayHoles) {
    Image image = Image::open(path, kSize, false).value();
    fill(image, {0, 4096}, 'a');
    ASSERT_TRUE(image.save({{0, kSize}}));
    fill(image, {0, kSize}, 'b');
    ASSERT_TRUE(image.restore());
    EXPECT_LE(space(), 65536U);
}

TEST_F(ImageTest, KeepsWhatIsThereOnlyIfTold) {
    static_cast<void>(place.file("image", std::string(kSize, 'x')));
    EXPECT_EQ(Image::open(path, kSize, false).error().code, EEXIST);
    EXPECT_EQ(content(), std::string(kSize, 'x'));
    ASSERT_TRUE(Image::open(path, kSize, true));
    EXPECT_EQ(content(), std::string(kSize, 'x'));
    ASSERT_TRUE(Image::open_to_read(path, kSize));
    const auto larger = Image::open(path, 2 * kSize, true);
    EXPECT_EQ(larger.error().code, EINVAL);
    EXPECT_EQ(larger.error().detail, "it has 1048576 bytes; the disk has 2097152");
    EXPECT_EQ(Image::open_to_read(path, 2 * kSize).error().code, EINVAL);
    static_cast<void>(place.file("image", ""));
    EXPECT_TRUE(Image::open(path, kSize, false)) << "an empty file will do";
    EXPECT_EQ(Image::open(place / "none", kSize, true).error().code, ENOENT);
    EXPECT_EQ(Image::open_to_read(place / "none", kSize).error().code, ENOENT);
    EXPECT_EQ(Image::open(place / "no/file", kSize, false).error().code, ENOENT);
}

TEST(Merge, TouchingAndOverlappingRangesBecomeOne) {
    const auto merged = merge({{50, 10}, {0, 10}, {10, 5}, {12, 20}, {14, 2}, {40, 0}});
    ASSERT_EQ(merged.size(), 2U);
    EXPECT_EQ(merged[0].offset, 0U);
    EXPECT_EQ(merged[0].length, 32U);
    EXPECT_EQ(merged[1].offset, 50U);
    EXPECT_EQ(merged[1].length, 10U);
    EXPECT_TRUE(merge({}).empty());
}

}  // namespace
}  // namespace ashlar::layers
