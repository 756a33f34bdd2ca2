// The driver model's rules, each as the kernel's documentation and source give it.
#include "sim/sim_driver.h"

#include <gtest/gtest.h>
#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "kernel/codec.h"
#include "sim/test_ring.h"

namespace ashlar::sim {
namespace {

namespace abi = kernel::abi;
using State = abi::DevState;

constexpr std::uint64_t kOffered = abi::f_cmd_ioctl_encode;
constexpr std::uint32_t kLength = 4096;

class DriverTest : public testing::Test {
protected:
    // A device with one queue of two tags.
    void make(std::uint64_t features, DriverOptions options = {}) {
        options.features = features;
        options.offered = kOffered;
        options.depth = 2;
        driver = std::make_unique<SimDriver>(kernel, options);
        connect();
    }
    void connect() {
        ring.dead = false;
        ASSERT_EQ(driver->open(fd), 0);
    }
    void run() {
        while (kernel.timeline.run_next()) {
        }
    }
    void run_for(Instant time) {
        bool over = false;
        kernel.timeline.after(time, [&] { over = true; });
        while (!over) kernel.timeline.run_next();
    }
    std::int32_t send(std::uint32_t opcode, std::uint16_t tag, std::int32_t result = 0,
                      std::uint64_t registration = 0) {
        const abi::IoCmd command =
            kernel::make_io_cmd(0, tag, result, address ? buffer_of(tag) : 0);
        return driver->command(ring, opcode, command, registration, &commands[tag]);
    }
    std::uint64_t buffer_of(std::uint16_t tag) {
        return reinterpret_cast<std::uintptr_t>(memory[tag].data());
    }
    void fetch() {
        for (std::uint16_t tag = 0; tag < 2; ++tag) {
            const std::uint64_t registration = kernel::encode_auto_buf_reg(tag, true);
            ASSERT_EQ(send(abi::u_io_fetch_req, tag, 0, registration), SimDriver::kQueued);
        }
    }
    void start() {
        fetch();
        driver->start_dev([this](int error) { started = error; });
        run();
        ASSERT_EQ(started, 0);
    }
    // The server's process ends.
    void die() {
        ring.dead = true;
        driver->ring_closed(ring);
        ring.slots.clear();
        run_for(1'000'000);
        fd.reset();
        driver->release();
        run();
    }
    // Answers where the request's answer will be; -1 until then.
    std::shared_ptr<int> ask(std::uint8_t op, std::uint32_t length = kLength) {
        auto answer = std::make_shared<int>(-1);
        auto request = std::make_shared<BlockRequest>();
        request->id = ++last;
        request->op = op;
        request->length = length;
        if (op <= abi::io_op_write) request->data.resize(length, std::byte{'d'});
        request->done = [answer](int error) { *answer = error; };
        requests.push_back(request);
        driver->submit(request);
        return answer;
    }
    // The tag that the only request has; the test fails if there is none.
    std::uint16_t delivered() {
        for (std::uint16_t tag = 0; tag < 2; ++tag) {
            if (commands[tag].results.empty()) continue;
            EXPECT_EQ(commands[tag].results.back(), abi::io_res_ok);
            commands[tag].results.clear();
            return tag;
        }
        ADD_FAILURE() << "nothing was delivered";
        return 0;
    }
    [[nodiscard]] std::string finding() const { return kernel.journal.finding(); }

    SimKernel kernel{1};
    TestRing ring;
    std::unique_ptr<SimDriver> driver;
    Fd fd;
    bool address = true;
    int started = -1;
    std::uint64_t last = 0;
    std::array<Noted, 2> commands;
    std::array<std::vector<std::byte>, 2> memory{std::vector<std::byte>(kLength),
                                                 std::vector<std::byte>(kLength)};
    std::vector<std::shared_ptr<BlockRequest>> requests;
};

TEST_F(DriverTest, StartsWhenEverythingIsFetched) {
    make(0);
    driver->start_dev([this](int error) { started = error; });
    ASSERT_EQ(send(abi::u_io_fetch_req, 0), SimDriver::kQueued);
    run();
    EXPECT_EQ(started, -1);
    ASSERT_EQ(send(abi::u_io_fetch_req, 1), SimDriver::kQueued);
    run();
    EXPECT_EQ(started, 0);
    EXPECT_EQ(driver->state(), State::live);
    EXPECT_EQ(finding(), "");
}

TEST_F(DriverTest, CopiesAWriteAndItsAnswerEndsIt) {
    make(0);
    start();
    const auto answer = ask(abi::io_op_write);
    run();
    const std::uint16_t tag = delivered();
    EXPECT_EQ(memory[tag], requests[0]->data);
    EXPECT_EQ(*answer, -1);
    EXPECT_EQ(send(abi::u_io_commit_and_fetch_req, tag, kLength), SimDriver::kQueued);
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(finding(), "");
}

TEST_F(DriverTest, ReadsFromTheAddressOfTheCommit) {
    make(0);
    start();
    const auto answer = ask(abi::io_op_read);
    run();
    const std::uint16_t tag = delivered();
    memory[tag].assign(kLength, std::byte{'r'});
    static_cast<void>(send(abi::u_io_commit_and_fetch_req, tag, kLength));
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(requests[0]->data, memory[tag]);
}

TEST_F(DriverTest, PassesErrnosOnAsTheBlockLayerDoes) {
    make(0);
    start();
    for (const auto& [given, seen] : {std::pair{ENOSPC, ENOSPC}, std::pair{EINVAL, EINVAL},
                                      std::pair{EOPNOTSUPP, EOPNOTSUPP}, std::pair{EPERM, EIO}}) {
        const auto answer = ask(abi::io_op_flush, 0);
        run();
        static_cast<void>(send(abi::u_io_commit_and_fetch_req, delivered(), -given));
        run();
        EXPECT_EQ(*answer, seen);
    }
}

TEST_F(DriverTest, FindsACommitOfATagThatIsNotOwned) {
    make(0);
    start();
    EXPECT_EQ(send(abi::u_io_commit_and_fetch_req, 0), -EBUSY);
    EXPECT_NE(finding().find("does not own"), std::string::npos);
}

TEST_F(DriverTest, FindsASecondFetch) {
    make(0);
    ASSERT_EQ(send(abi::u_io_fetch_req, 0), SimDriver::kQueued);
    EXPECT_EQ(send(abi::u_io_fetch_req, 0), -EINVAL);
    EXPECT_NE(finding(), "");
}

TEST_F(DriverTest, FindsALegacyOpcodeWhereTheyAreEncoded) {
    make(0);
    EXPECT_EQ(send(abi::io_fetch_req, 0), -EOPNOTSUPP);
    EXPECT_NE(finding(), "");
}

TEST_F(DriverTest, FindsAnAddressWithUserCopy) {
    make(abi::f_user_copy);
    EXPECT_EQ(send(abi::u_io_fetch_req, 0), -EINVAL);
    EXPECT_NE(finding(), "");
}

TEST_F(DriverTest, FindsAShortAnswer) {
    make(0);
    start();
    static_cast<void>(ask(abi::io_op_write));
    run();
    static_cast<void>(send(abi::u_io_commit_and_fetch_req, delivered(), 512));
    EXPECT_NE(finding().find("short"), std::string::npos);
}

TEST_F(DriverTest, AnnouncesAWriteAndCopiesWhenAsked) {
    make(abi::f_need_get_data);
    start();
    static_cast<void>(ask(abi::io_op_write));
    run();
    const std::uint16_t tag = commands[0].results.empty() ? 1 : 0;
    EXPECT_EQ(commands[tag].results, std::vector{abi::io_res_need_get_data});
    EXPECT_EQ(memory[tag][0], std::byte{0});
    EXPECT_EQ(send(abi::u_io_need_get_data, tag), SimDriver::kQueued);
    EXPECT_EQ(memory[tag][0], std::byte{'d'});
    EXPECT_EQ(commands[tag].results.back(), abi::io_res_ok);
    EXPECT_EQ(send(abi::u_io_need_get_data, tag), -EINVAL);
    EXPECT_NE(finding(), "");
}

TEST_F(DriverTest, RegistersByItselfAndTheAnswerUndoesIt) {
    address = false;
    make(abi::f_auto_buf_reg | abi::f_support_zero_copy);
    start();
    const auto answer = ask(abi::io_op_write);
    run();
    const std::uint16_t tag = delivered();
    ASSERT_TRUE(ring.slots.contains(tag));
    const std::uint64_t registration = kernel::encode_auto_buf_reg(tag, true);
    // An operation of the server still uses it.
    auto used = ring.slots[tag];
    static_cast<void>(send(abi::u_io_commit_and_fetch_req, tag, kLength, registration));
    run();
    EXPECT_FALSE(ring.slots.contains(tag));
    EXPECT_EQ(*answer, -1);
    used.reset();
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(finding(), "");
}

TEST_F(DriverTest, FallsBackWhenItCannotRegister) {
    address = false;
    make(abi::f_auto_buf_reg | abi::f_support_zero_copy, {.no_registrations = 1000});
    start();
    static_cast<void>(ask(abi::io_op_write));
    run();
    delivered();
    EXPECT_TRUE(ring.slots.empty());
    EXPECT_EQ(finding(), "");
}

TEST_F(DriverTest, StopWaitsForWhatIsInFlightAndThenTakesTheCommandsBack) {
    make(0);
    start();
    const auto answer = ask(abi::io_op_write);
    run();
    const std::uint16_t tag = delivered();
    int stopped = -1;
    driver->stop_dev([&](int error) { stopped = error; });
    run();
    EXPECT_EQ(stopped, -1);
    const auto late = ask(abi::io_op_write);
    run();
    EXPECT_EQ(*late, EIO);
    static_cast<void>(send(abi::u_io_commit_and_fetch_req, tag, kLength));
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(stopped, 0);
    EXPECT_EQ(driver->state(), State::dead);
    for (const Noted& command : commands) {
        EXPECT_EQ(command.results, std::vector{abi::io_res_abort});
    }
}

struct End {
    const char* name;
    std::uint64_t features;
    State state;
    int owned;  // of the request that the server had; -1: it waits
    int later;  // of one after it
};
class ServerGone : public DriverTest, public testing::WithParamInterface<End> {};

TEST_P(ServerGone, DoesWithRequestsAsTheRecoverySays) {
    const End& end = GetParam();
    make(end.features);
    start();
    const auto owned = ask(abi::io_op_write);
    run();
    delivered();
    die();
    EXPECT_FALSE(driver->is_open());
    EXPECT_EQ(driver->state(), end.state);
    EXPECT_EQ(*owned, end.owned);
    const auto later = ask(abi::io_op_read);
    run();
    EXPECT_EQ(*later, end.later);
    if (end.features == 0) {
        EXPECT_EQ(driver->start_recovery(), EINVAL);
        return;
    }
    EXPECT_EQ(driver->start_recovery(), 0);
    connect();
    fetch();
    int recovered = -1;
    driver->end_recovery([&](int error) { recovered = error; });
    run();
    EXPECT_EQ(recovered, 0);
    EXPECT_EQ(driver->state(), State::live);
    int waiting = 0;
    for (std::uint16_t tag = 0; tag < 2; ++tag) {
        if (commands[tag].results.empty()) continue;
        ++waiting;
        static_cast<void>(send(abi::u_io_commit_and_fetch_req, tag, kLength));
    }
    run();
    EXPECT_EQ(waiting, (end.owned == -1 ? 1 : 0) + (end.later == -1 ? 1 : 0));
    EXPECT_EQ(*owned, end.owned == -1 ? 0 : end.owned);
    EXPECT_EQ(*later, end.later == -1 ? 0 : end.later);
    EXPECT_EQ(finding(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Recoveries, ServerGone,
    testing::Values(End{"none", 0, State::dead, EIO, EIO},
                    End{"queue", abi::f_user_recovery, State::quiesced, EIO, -1},
                    End{"reissue", abi::f_user_recovery | abi::f_user_recovery_reissue,
                        State::quiesced, -1, -1},
                    End{"fail", abi::f_user_recovery | abi::f_user_recovery_fail_io, State::fail_io,
                        EIO, EREMOTEIO}),
    [](const auto& end) { return end.param.name; });

TEST_F(DriverTest, QuiesceTakesIdleCommandsBackAndKeepsNewRequests) {
    make(abi::f_user_recovery | abi::f_quiesce);
    start();
    const auto answer = ask(abi::io_op_write);
    run();
    const std::uint16_t tag = delivered();
    int quiesced = -1;
    driver->quiesce_dev(1'000'000, [&](int error) { quiesced = error; });
    run();
    EXPECT_EQ(quiesced, 0);
    EXPECT_EQ(commands[1 - tag].results, std::vector{abi::io_res_abort});
    const auto later = ask(abi::io_op_read);
    static_cast<void>(send(abi::u_io_commit_and_fetch_req, tag, kLength));
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(*later, -1);
    die();
    EXPECT_EQ(driver->state(), State::quiesced);
    EXPECT_EQ(*later, -1);
}

class BatchTest : public DriverTest {
protected:
    void prepare() {
        std::array<std::byte, 64> elements{};
        std::size_t size = 0;
        for (std::uint16_t tag = 0; tag < 2; ++tag) {
            size += kernel::encode_batch_element(abi::batch_f_has_buf_addr,
                                                 {.tag = tag, .buf_addr = buffer_of(tag)},
                                                 elements.data() + size);
        }
        const auto command = kernel::make_batch_io(0, abi::batch_f_has_buf_addr, 2);
        ASSERT_EQ(driver->batch_command(ring, abi::u_io_prep_io_cmds, command, elements.data()), 0);
    }
    std::int32_t fetch_batch() {
        return driver->batch_fetch(ring, abi::u_io_fetch_io_cmds, kernel::make_batch_fetch(0), 0,
                                   commands[0]);
    }
    std::int32_t commit(std::vector<std::uint16_t> tags) {
        std::array<std::byte, 64> elements{};
        std::size_t size = 0;
        for (const std::uint16_t tag : tags) {
            size += kernel::encode_batch_element(
                abi::batch_f_has_buf_addr,
                {.tag = tag, .result = kLength, .buf_addr = buffer_of(tag)},
                elements.data() + size);
        }
        const auto command = kernel::make_batch_io(0, abi::batch_f_has_buf_addr,
                                                   static_cast<std::uint16_t>(tags.size()));
        return driver->batch_command(ring, abi::u_io_commit_io_cmds, command, elements.data());
    }
    void begin(DriverOptions options = {}) {
        make(abi::f_batch_io, options);
        prepare();
        ASSERT_EQ(fetch_batch(), SimDriver::kQueued);
        driver->start_dev([this](int error) { started = error; });
        run();
        ASSERT_EQ(started, 0);
    }
    std::array<std::uint16_t, 8> delivered_tags{};
};

TEST_F(BatchTest, DeliversTagsAndTakesThemBack) {
    begin();
    for (int i = 0; i < 2; ++i)
        ring.buffers.push_back({0, std::as_writable_bytes(std::span(delivered_tags))});
    const auto answer = ask(abi::io_op_write);
    run();
    EXPECT_EQ(commands[0].results, std::vector{2});
    EXPECT_EQ(commit({delivered_tags[0]}), 16);
    run();
    EXPECT_EQ(*answer, 0);
    EXPECT_EQ(finding(), "");
}

TEST_F(BatchTest, TakesSomeOfACommit) {
    begin({.parts = 1000});
    for (int i = 0; i < 2; ++i)
        ring.buffers.push_back({0, std::as_writable_bytes(std::span(delivered_tags))});
    static_cast<void>(ask(abi::io_op_write));
    static_cast<void>(ask(abi::io_op_write));
    run();
    EXPECT_EQ(commit({0, 1}), 16);
    EXPECT_EQ(commit({1}), 16);
    EXPECT_EQ(finding(), "");
}

TEST_F(BatchTest, EndsTheFetchWithoutBuffersAndKeepsTheTags) {
    begin();
    const auto answer = ask(abi::io_op_write);
    run();
    EXPECT_EQ(commands[0].results, std::vector{-ENOBUFS});
    ring.buffers.push_back({0, std::as_writable_bytes(std::span(delivered_tags))});
    EXPECT_EQ(fetch_batch(), SimDriver::kQueued);
    run();
    EXPECT_EQ(commands[0].results.back(), 2);
    EXPECT_EQ(commit({delivered_tags[0]}), 16);
    run();
    EXPECT_EQ(*answer, 0);
}

TEST_F(BatchTest, FindsACommandForOneTag) {
    begin();
    EXPECT_EQ(send(abi::u_io_fetch_req, 0), -EOPNOTSUPP);
    EXPECT_NE(finding(), "");
}

}  // namespace
}  // namespace ashlar::sim
