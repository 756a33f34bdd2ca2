// BareDevice: a device made with the commands of the kernel's interface and nothing else, to
// compare the library's with.
#pragma once

#include <liburing.h>
#include <cstdint>
#include <latch>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "kernel/abi.h"

namespace ashlar::bench {

// Reads give zeroes, writes are dropped. What fails ends the program: there is nothing to measure.
class BareDevice {
public:
    // ADD, SET_PARAMS, a FETCH for each tag of each queue, START.
    BareDevice(std::uint16_t queues, std::uint16_t depth);
    // STOP and DEL.
    ~BareDevice();
    BareDevice(const BareDevice&) = delete;
    BareDevice& operator=(const BareDevice&) = delete;

    [[nodiscard]] unsigned queues() const noexcept { return info_.nr_hw_queues; }

private:
    void command(std::uint32_t opcode, const void* buffer = nullptr, std::uint16_t length = 0,
                 std::uint64_t data = 0);
    void serve(std::uint16_t queue, std::latch& fetched);

    Fd control_;
    io_uring ring_{};
    kernel::abi::DevInfo info_{};
    Fd device_;
    std::vector<std::thread> threads_;
};

}  // namespace ashlar::bench
