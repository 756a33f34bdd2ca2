#include "backends/nbd/bound.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <array>
#include <cerrno>

namespace ashlar::nbd {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

class BoundTest : public testing::Test {
protected:
    void SetUp() override {
        std::array<int, 2> both{};
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both.data()), 0);
        ends = {Fd(both[0]), Fd(both[1])};
    }
    // Waits until the connection has ended.
    [[nodiscard]] bool ended() const {
        char byte = 0;
        return recv(ends[1].get(), &byte, 1, 0) == 0;
    }
    [[nodiscard]] bool lives() const {
        char byte = 0;
        return recv(ends[1].get(), &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
    }

    std::array<Fd, 2> ends;
    std::atomic<bool> given_up = false;
};

TEST_F(BoundTest, EndsTheConnectionWhenTheTimeIsOver) {
    auto bound = Bound::begin(50ms, given_up);
    ASSERT_TRUE(bound);
    EXPECT_EQ((*bound)->error(), 0);
    (*bound)->watch(ends[0].get());
    EXPECT_TRUE(lives());
    EXPECT_TRUE(ended());
    EXPECT_EQ((*bound)->error(), ETIMEDOUT);
}

TEST_F(BoundTest, EndsTheConnectionThatIsGivenUp) {
    auto bound = Bound::begin(1h, given_up);
    ASSERT_TRUE(bound);
    (*bound)->watch(ends[0].get());
    given_up = true;
    EXPECT_TRUE(ended());
    EXPECT_EQ((*bound)->error(), ECANCELED);
}

TEST_F(BoundTest, EndsAConnectionThatBeginsTooLate) {
    auto bound = Bound::begin(1ms, given_up);
    ASSERT_TRUE(bound);
    (*bound)->watch(-1);
    while ((*bound)->error() == 0) std::this_thread::yield();
    (*bound)->watch(ends[0].get());
    EXPECT_TRUE(ended());
}

// The number may be somebody else's by then.
TEST_F(BoundTest, KnowsTheConnectionAndNotTheDescriptor) {
    auto bound = Bound::begin(1h, given_up);
    ASSERT_TRUE(bound);
    (*bound)->watch(ends[0].get());
    ends[0] = Fd();
    given_up = true;
    EXPECT_TRUE(ended());
}

TEST_F(BoundTest, LetsGoOfWhatWasInTime) {
    const auto begun = steady_clock::now();
    {
        auto bound = Bound::begin(1h, given_up);
        ASSERT_TRUE(bound);
        (*bound)->watch(ends[0].get());
    }
    EXPECT_TRUE(lives());
    ends[0] = Fd();
    EXPECT_TRUE(ended()) << "nobody else has it open";
    EXPECT_LT(steady_clock::now() - begun, 1min);
}

}  // namespace
}  // namespace ashlar::nbd
