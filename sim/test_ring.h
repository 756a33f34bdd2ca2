// A ring for tests of the driver: it only notes what completes.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "sim/sim_driver.h"

namespace ashlar::sim {

class Noted final : public Operation {
public:
    void complete(std::int32_t result, std::uint32_t) noexcept override {
        results.push_back(result);
    }
    std::vector<std::int32_t> results;
};

class TestRing final : public Ring {
public:
    void post(Operation& operation, std::int32_t result, std::uint32_t flags) override {
        if (!dead) operation.complete(result, flags);
    }
    [[nodiscard]] bool closed() const noexcept override { return dead; }
    int register_buffer(std::uint64_t index, std::shared_ptr<RegisteredBuffer> buffer) override {
        if (index >= 64) return -EINVAL;
        if (slots.contains(index)) return -EBUSY;
        slots.emplace(index, std::move(buffer));
        return 0;
    }
    int unregister_buffer(std::uint64_t index) override {
        return slots.erase(index) == 1 ? 0 : -EINVAL;
    }
    std::optional<Picked> pick_buffer(std::uint16_t) override {
        if (buffers.empty()) return std::nullopt;
        const Picked picked = buffers.front();
        buffers.pop_front();
        return picked;
    }
    [[nodiscard]] unsigned number() const noexcept override { return 0; }

    bool dead = false;
    std::map<std::uint64_t, std::shared_ptr<RegisteredBuffer>> slots;
    std::deque<Picked> buffers;
};

}  // namespace ashlar::sim
