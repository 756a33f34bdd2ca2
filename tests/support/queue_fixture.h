// The real queue over a reactor and a character device that the test plays.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>

#include <gtest/gtest.h>

#include "core/queue.h"
#include "support/fake_char_device.h"
#include "support/fake_reactor.h"
#include "support/test_sessions.h"

namespace ashlar::test {

class QueueFixture : public testing::Test {
protected:
    static constexpr std::uint32_t kIoMax = 64 * 1024;
    static constexpr Capabilities kEverything{
        .flush = true, .fua = true, .discard = true, .write_zeroes = true};

    Result<std::unique_ptr<Queue>> open(std::shared_ptr<Backend> backend) {
        return Queue::open(config, {.reactor = reactor,
                                    .offload = offload,
                                    .metrics = owner->metrics,
                                    .observer = observer,
                                    .device = kernel.device(),
                                    .backend = std::move(backend),
                                    .owner = owner,
                                    .part = thread});
    }
    // Opens the queue with a session of the given kind and has it fetch.
    template <class S = RecordingSession>
    S& start() {
        auto session = std::make_unique<S>();
        S& kept = *session;
        auto opened = open(std::make_shared<SessionBackend>(std::move(session)));
        if (!opened) throw std::runtime_error(opened.error().message());
        queue = std::move(*opened);
        queue->fetch_all();
        return kept;
    }
    // The kernel delivers a request. False when the tag has no fetch pending.
    [[nodiscard]] bool deliver(std::uint16_t tag, const kernel::abi::IoDesc& descriptor) {
        kernel.put(config.index, tag, descriptor);
        return reactor.complete_tag(config.index, tag, kernel::abi::io_res_ok);
    }
    // A tag's pending commit.
    const FakeReactor::Pending& commit_of(std::uint16_t tag) {
        const auto* commit = reactor.find(config.index, tag);
        if (commit == nullptr) throw std::runtime_error("nothing pending");
        EXPECT_EQ(commit->opcode, config.ioctl_commands ? kernel::abi::u_io_commit_and_fetch_req
                                                        : kernel::abi::io_commit_and_fetch_req);
        EXPECT_EQ(commit->io.tag, tag);
        return *commit;
    }
    // The result that a tag's pending commit carries.
    std::int32_t committed(std::uint16_t tag) { return commit_of(tag).io.result; }
    // Delivers to tag 0 and answers what is committed.
    std::int32_t serve(const kernel::abi::IoDesc& descriptor) {
        if (!deliver(0, descriptor)) throw std::runtime_error("tag 0 is not fetched");
        return committed(0);
    }
    // The device stops: all that is with the kernel comes back.
    void bring_home() {
        while (!reactor.pending().empty()) reactor.complete(0, kernel::abi::io_res_abort);
    }
    // As a thread does whose ring ended: what is pending never completes.
    void close_ring() {
        queue->thread_ends();
        reactor.close();
    }
    void TearDown() override {
        if (queue && !queue->home()) close_ring();
    }

    QueueConfig config{.device = 7,
                       .index = 0,
                       .depth = 4,
                       .io_max = kIoMax,
                       .ioctl_commands = true,
                       .capabilities = kEverything};
    std::uint16_t thread = 0;
    Observer* observer = nullptr;
    FakeCharDevice kernel{3};
    FakeReactor reactor;
    OffloadPool offload;
    std::shared_ptr<RecordingOwner> owner = std::make_shared<RecordingOwner>();
    std::unique_ptr<Queue> queue;
};

}  // namespace ashlar::test
