// A queue on the real reactor, whose system call is answered here: the time that is measured is our
// own code's and nobody else's. pretend_kernel.cc takes the call's place.
#pragma once

#include <liburing.h>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <ashlar/backends.h>

#include "core/queue.h"
#include "support/fake_char_device.h"
#include "support/test_sessions.h"

namespace ashlar::bench {

// What the kernel would do: takes the submissions, and answers each fetch with a new request.
class PretendKernel {
public:
    static PretendKernel*& current() {
        static PretendKernel* kernel = nullptr;
        return kernel;
    }
    explicit PretendKernel(unsigned batch) : batch_(batch) {
        fetched_.reserve(4096);
        current() = this;
    }
    ~PretendKernel() { current() = nullptr; }
    PretendKernel(const PretendKernel&) = delete;
    PretendKernel& operator=(const PretendKernel&) = delete;

    int enter(io_uring& ring) noexcept {
        unsigned tail = *ring.sq.ktail;
        for (unsigned at = ring.sq.sqe_head; at != ring.sq.sqe_tail; ++at, ++tail) {
            const io_uring_sqe& sqe = ring.sq.sqes[at & *ring.sq.kring_mask];
            if (sqe.opcode == IORING_OP_URING_CMD) fetched_.push_back(sqe.user_data);
        }
        ring.sq.sqe_head = ring.sq.sqe_tail;
        *ring.sq.ktail = tail;
        *ring.sq.khead = tail;
        // The oldest first, as many as a busy kernel brings at once.
        const auto count = std::min<std::size_t>(batch_, fetched_.size());
        unsigned end = *ring.cq.ktail;
        for (std::size_t i = 0; i < count; ++i, ++end) {
            io_uring_cqe& cqe = ring.cq.cqes[end & *ring.cq.kring_mask];
            cqe.user_data = fetched_[i];
            cqe.res = 0;
            cqe.flags = 0;
        }
        fetched_.erase(fetched_.begin(), fetched_.begin() + static_cast<std::ptrdiff_t>(count));
        *ring.cq.ktail = end;
        return static_cast<int>(count);
    }

private:
    const unsigned batch_;
    std::vector<std::uint64_t> fetched_;
};

struct Setting {
    std::uint16_t depth = 128;
    unsigned batch = 64;  // requests that come with each round
    bool timed = true;    // with metrics
};

// A null device's queue that is being read, 4 KiB each.
class Rounds {
public:
    explicit Rounds(const Setting& setting)
        : kernel_(setting.batch), owner_(std::make_shared<Owner>(setting.timed)) {
        auto reactor = open_uring_reactor({.entries = 512, .files = 1, .buffers = setting.depth});
        if (!reactor) throw std::runtime_error(reactor.error().message());
        reactor_ = std::move(*reactor);
        auto backend = open_null({.geometry = {.size = 1U << 30}, .fill = false});
        if (!backend) throw std::runtime_error(backend.error().message());
        QueueConfig config{.depth = setting.depth, .io_max = 65536};
        config.access = (*backend)->data_access();
        config.capabilities = (*backend)->capabilities();
        config.data_path = DataPath::zero_copy;
        config.size = 1U << 30;
        for (std::uint16_t tag = 0; tag < setting.depth; ++tag) {
            device_.put(0, tag, test::make_descriptor(kernel::abi::io_op_read, tag * 8U, 8));
        }
        auto queue = Queue::open(config, {.reactor = *reactor_,
                                          .offload = offload_,
                                          .metrics = owner_->metrics,
                                          .device = device_.device(),
                                          .backend = *backend,
                                          .owner = owner_});
        if (!queue) throw std::runtime_error(queue.error().message());
        queue_ = std::move(*queue);
        queue_->fetch_all();
        run(10);
    }
    ~Rounds() {
        queue_->thread_ends();
        queue_.reset();
    }
    Rounds(const Rounds&) = delete;
    Rounds& operator=(const Rounds&) = delete;

    void run(unsigned rounds) noexcept {
        for (unsigned i = 0; i < rounds; ++i) static_cast<void>(reactor_->run_once(std::nullopt));
    }
    [[nodiscard]] std::uint64_t answered() const {
        QueueMetrics sum;
        owner_->metrics.add_to(sum);
        return sum.ops[static_cast<unsigned>(Op::read)].count;
    }

private:
    struct Owner final : QueueOwner {
        explicit Owner(bool timed) : metrics(timed) {}
        void queue_opened() noexcept override {}
        void queue_left(std::uint32_t) noexcept override {}
        void queue_home(std::uint32_t) noexcept override {}
        void queue_failed(std::uint32_t, Error) noexcept override {}
        void queue_closed() noexcept override {}
        LiveMetrics metrics;
    };

    PretendKernel kernel_;
    test::FakeCharDevice device_;
    OffloadPool offload_;
    std::shared_ptr<Owner> owner_;
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<Queue> queue_;
};

}  // namespace ashlar::bench
