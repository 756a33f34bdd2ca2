#include "cli/progress.h"

#include <fcntl.h>
#include <array>
#include <chrono>
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "base/fd.h"

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

// A terminal whose other side the test reads.
class Terminal {
public:
    Terminal() : other_(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)) {
        EXPECT_TRUE(other_.valid());
        grantpt(other_.get());
        unlockpt(other_.get());
        std::array<char, 64> name{};
        EXPECT_EQ(ptsname_r(other_.get(), name.data(), name.size()), 0);
        own_ = Fd(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
        EXPECT_TRUE(own_.valid());
    }
    [[nodiscard]] int get() const { return own_.get(); }
    std::string said() {
        std::array<char, 4096> text{};
        const ssize_t got = ::read(other_.get(), text.data(), text.size());
        return {text.data(), static_cast<std::size_t>(got < 0 ? 0 : got)};
    }

private:
    Fd other_;
    Fd own_;
};

TEST(Progress, IsSilentUntilItTakesAWhile) {
    Terminal terminal;
    const auto start = Progress::Clock::now();
    {
        Progress progress("removing devices", 9, terminal.get());
        progress.at(1, start + 100ms);
    }
    EXPECT_EQ(terminal.said(), "");
}

TEST(Progress, SaysHowFarItIsAndIsGoneAtTheEnd) {
    Terminal terminal;
    const auto start = Progress::Clock::now();
    {
        Progress progress("removing devices", 9, terminal.get());
        progress.at(3, start + 2s);
        EXPECT_EQ(terminal.said(), "\r\033[Kremoving devices: 3 of 9");
        progress.at(4, start + 2s + 50ms);
        EXPECT_EQ(terminal.said(), "") << "not ten times a second";
        Progress::make_room();
        EXPECT_EQ(terminal.said(), "\r\033[K");
        progress.at(5, start + 3s);
        EXPECT_EQ(terminal.said(), "\r\033[Kremoving devices: 5 of 9");
    }
    EXPECT_EQ(terminal.said(), "\r\033[K");
}

TEST(Progress, OfUnknownLengthCounts) {
    Terminal terminal;
    Progress progress("boundaries", std::nullopt, terminal.get());
    progress.at(12, Progress::Clock::now() + 2s);
    EXPECT_EQ(terminal.said(), "\r\033[Kboundaries: 12");
}

TEST(Progress, NothingGoesIntoAPipe) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const Fd reader(ends[0]);
    const Fd writer(ends[1]);
    {
        Progress progress("removing devices", 9, writer.get());
        progress.at(3, Progress::Clock::now() + 2s);
    }
    char byte = 0;
    EXPECT_LT(::read(reader.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace ashlar::cli
