// SimKernel: what the parts of one simulation share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ashlar/io.h>
#include <ashlar/types.h>

#include "sim/journal.h"
#include "sim/random.h"
#include "sim/sim_files.h"
#include "sim/timeline.h"

namespace ashlar::sim {

class SimDriver;

// A request of the block layer.
struct BlockRequest {
    std::uint64_t id = 0;  // in order of submission
    std::uint8_t op = 0;   // kernel::abi::io_op_*, or what no server knows
    bool fua = false;
    bool no_unmap = false;
    std::uint64_t offset = 0;  // bytes
    std::uint64_t length = 0;
    std::vector<std::byte> data{};  // read, write: length bytes
    std::function<void(int error)> done;
    // The block layer's own.
    std::uint16_t queue = 0;
    std::uint16_t tag = 0;
    bool started = false;

    [[nodiscard]] bool has_data() const noexcept { return !data.empty(); }
};

// The pages of a request as a buffer of a ring. Whoever uses them shares it; the driver is told
// when nobody does any more.
struct RegisteredBuffer {
    RegisteredBuffer(std::shared_ptr<BlockRequest> of, std::move_only_function<void()> call)
        : request(std::move(of)), released(std::move(call)) {}
    RegisteredBuffer(const RegisteredBuffer&) = delete;
    RegisteredBuffer& operator=(const RegisteredBuffer&) = delete;
    ~RegisteredBuffer() { released(); }

    std::shared_ptr<BlockRequest> request;
    std::move_only_function<void()> released;
};

// What the driver needs of a ring.
class Ring {
public:
    // A command completes.
    virtual void post(Operation& operation, std::int32_t result, std::uint32_t flags) = 0;
    [[nodiscard]] virtual bool closed() const noexcept = 0;
    // 0, -EBUSY (the slot is taken) or -EINVAL (there is no such slot).
    virtual int register_buffer(std::uint64_t index, std::shared_ptr<RegisteredBuffer> buffer) = 0;
    // 0 or -EINVAL (there is nothing).
    virtual int unregister_buffer(std::uint64_t index) = 0;
    struct Picked {
        std::uint16_t buffer = 0;
        std::span<std::byte> bytes{};
    };
    // The next buffer of a group; empty when all are with the server.
    virtual std::optional<Picked> pick_buffer(std::uint16_t group) = 0;
    [[nodiscard]] virtual unsigned number() const noexcept = 0;

protected:
    ~Ring() = default;
};

// The errors that the kernel gave to operations, until those who asked have seen them.
class GivenErrors {
public:
    void give(int error) { ++counts_[error]; }
    // False when there is none: whoever sees it was not given it.
    [[nodiscard]] bool take(int error) {
        const auto found = counts_.find(error);
        if (found == counts_.end() || found->second == 0) return false;
        --found->second;
        return true;
    }
    // Those who have not seen theirs are gone.
    void clear() { counts_.clear(); }

private:
    std::map<int, std::uint64_t> counts_;
};

struct SimKernel {
    explicit SimKernel(std::uint64_t seed) : random(seed) {}
    SimKernel(const SimKernel&) = delete;
    SimKernel& operator=(const SimKernel&) = delete;

    Random random;
    Timeline timeline;
    Journal journal{timeline};
    SimFiles files;
    GivenErrors errors;
    bool files_hang = false;  // what is asked of files now never completes unless it is cancelled
    std::map<int, SimDriver*> devices;  // by the descriptor of the character device
    Ring* running = nullptr;            // whose thread runs now
};

}  // namespace ashlar::sim
