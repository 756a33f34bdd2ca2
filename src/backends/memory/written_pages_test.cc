#include "backends/memory/written_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <random>
#include <string>

#include <gtest/gtest.h>

namespace ashlar::memory {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPages = 300;
constexpr std::uint64_t kSize = kPages * kPage;

// What pages are written: "..##."
std::string shown(const WrittenPages& pages, std::uint64_t count = kPages) {
    std::string text;
    for (std::uint64_t at = 0; at < count * kPage;) {
        const WrittenPages::Run run = pages.run(at, count * kPage);
        EXPECT_GT(run.end, at);
        text.append((run.end - at) / kPage, run.written ? '#' : '.');
        at = run.end;
    }
    return text;
}

TEST(WrittenPages, AreMarkedAsFarAsARangeTouchesThem) {
    auto pages = WrittenPages::make(kSize, kPage).value();
    EXPECT_EQ(shown(pages), std::string(kPages, '.'));
    pages.mark({.offset = 2 * kPage - 1, .length = 2});
    pages.mark({.offset = 5 * kPage, .length = kPage});
    pages.mark({.offset = 7 * kPage, .length = 0});
    EXPECT_EQ(shown(pages, 8), ".##..#..");
    EXPECT_TRUE(pages.has(kPage));
    EXPECT_FALSE(pages.has(kPage - 1));
    EXPECT_TRUE(pages.all({.offset = kPage + 5, .length = kPage}));
    EXPECT_FALSE(pages.all({.offset = kPage + 5, .length = 2 * kPage}));
}

TEST(WrittenPages, ARunEndsWhereItIsToldTo) {
    auto pages = WrittenPages::make(kSize, kPage).value();
    EXPECT_EQ(pages.run(100, 200).end, 200U);
    EXPECT_EQ(pages.run(100, kSize).end, kSize);
    pages.mark({.offset = 0, .length = kSize});
    EXPECT_EQ(pages.run(100, 200).end, 200U);
    EXPECT_EQ(pages.run(100, kSize).end, kSize);
    EXPECT_TRUE(pages.run(kSize - 1, kSize).written);
}

TEST(WrittenPages, AreWhatWasMarkedAndNotCleared) {
    auto pages = WrittenPages::make(kSize, kPage).value();
    std::string expected(kPages, '.');
    std::mt19937_64 random(7);
    for (int i = 0; i < 2000; ++i) {
        const std::uint64_t first = random() % kPages;
        const std::uint64_t count = random() % (kPages - first) % 150 + 1;
        const Range range{.offset = first * kPage, .length = count * kPage};
        const bool marks = random() % 2 == 0;
        marks ? pages.mark(range) : pages.clear(range);
        expected.replace(first, count, count, marks ? '#' : '.');
        ASSERT_EQ(shown(pages), expected) << i;
    }
}

TEST(WrittenPages, AreFoundInTheFile) {
    const Fd file(memfd_create("pages", MFD_CLOEXEC));
    ASSERT_TRUE(file.valid());
    ASSERT_EQ(ftruncate(file.get(), kSize), 0);
    auto none = WrittenPages::make(kSize, kPage).value();
    none.find(file.get(), kSize);
    EXPECT_EQ(shown(none), std::string(kPages, '.'));
    for (const std::uint64_t page : {3, 4, 299}) {
        ASSERT_EQ(pwrite(file.get(), "x", 1, static_cast<off_t>(page * kPage + 7)), 1);
    }
    auto found = WrittenPages::make(kSize, kPage).value();
    found.find(file.get(), kSize);
    EXPECT_EQ(shown(found), "...##" + std::string(294, '.') + "#");
}

TEST(WrittenPages, AllAreWrittenWhereNobodyCanTell) {
    auto pages = WrittenPages::make(kSize, kPage).value();
    pages.find(-1, kSize);
    EXPECT_EQ(shown(pages), std::string(kPages, '#'));
}

TEST(WrittenPages, OfALargeDiskTakeNoMemoryInAdvance) {
    auto pages = WrittenPages::make(std::uint64_t{1} << 46, kPage);
    ASSERT_TRUE(pages) << pages.error().message();
    pages->mark({.offset = (std::uint64_t{1} << 46) - 1, .length = 1});
    EXPECT_TRUE(pages->has((std::uint64_t{1} << 46) - 1));
}

}  // namespace
}  // namespace ashlar::memory
