// Client: what uses the block device. It asks at random, and compares what it is answered with the
// reference.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "sim/reference.h"
#include "sim/sim_driver.h"
#include "sim/storm_plan.h"

namespace ashlar::sim {

class Client {
public:
    // capabilities: of the whole stack. What is given outlives the client.
    Client(SimKernel& kernel, SimDriver& driver, Reference& reference, const Plan& plan,
           const Capabilities& capabilities);

    void begin();
    // Reads all of the disk, then calls; the client has nothing else to do any more.
    void verify(std::function<void()> then);
    // Its requests are all answered.
    [[nodiscard]] bool idle() const noexcept {
        return left_ == 0 && about_to_ask_ == 0 && in_flight_.empty();
    }
    [[nodiscard]] bool waits() const noexcept { return !in_flight_.empty(); }
    std::function<void()> on_idle;
    // A request ends with an error that no server has answered.
    std::function<void(const BlockRequest& request, int error)> on_lost;

    // A server has answered the request.
    void answered(const BlockRequest& request);
    // Numbers of the changes that are in flight.
    [[nodiscard]] std::vector<std::uint64_t> changes_in_flight() const;
    [[nodiscard]] std::uint64_t errors() const noexcept { return errors_; }
    [[nodiscard]] std::uint64_t requests() const noexcept { return last_; }
    [[nodiscard]] std::uint64_t answers() const noexcept { return last_ - in_flight_.size(); }

private:
    struct Flight {
        std::shared_ptr<BlockRequest> request;
        Reference::Blocks blocks{};
        std::uint64_t begun = 0;   // of reads and flushes
        std::uint64_t number = 0;  // of changes
        bool answered = false;
    };

    void ask_next(Instant delay);
    void ask();
    void draw(BlockRequest& request, Reference::Blocks& blocks);
    void submit(const std::shared_ptr<BlockRequest>& request, Reference::Blocks blocks,
                std::function<void(int)> then);
    void done(std::uint64_t id, int error);
    void read_on(std::uint64_t block, unsigned tries, std::function<void()> then);

    SimKernel& kernel_;
    SimDriver& driver_;
    Reference& reference_;
    const Plan& plan_;
    const Capabilities capabilities_;
    std::uint64_t last_ = 0;
    unsigned left_;
    unsigned about_to_ask_ = 0;
    std::uint64_t errors_ = 0;
    std::map<std::uint64_t, Flight> in_flight_;  // by the request's id
};

}  // namespace ashlar::sim
