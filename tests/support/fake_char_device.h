// FakeCharDevice: stands in for /dev/ublkcN. A memory file holds the descriptor arrays, which the
// test writes as the driver would; past them the data of requests, for user copy.
#pragma once

#include <sys/mman.h>
#include <unistd.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/fd.h"
#include "core/queue.h"
#include "kernel/abi.h"

namespace ashlar::test {

class FakeCharDevice {
public:
    explicit FakeCharDevice(std::uint16_t queues = 1) {
        Fd fd(memfd_create("ublkc", MFD_CLOEXEC));
        const std::size_t size = queues * stride();
        if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
            throw std::runtime_error("memfd");
        }
        void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
        if (memory == MAP_FAILED) throw std::runtime_error("mmap");
        mapping_ = Mapping(memory, size);
        device_ = std::make_shared<CharDevice>(std::move(fd));
    }

    [[nodiscard]] const std::shared_ptr<CharDevice>& device() const noexcept { return device_; }
    // Gives up the test's own share, so that the queues' shares are the last.
    std::weak_ptr<CharDevice> release() {
        std::weak_ptr<CharDevice> watch = device_;
        device_.reset();
        return watch;
    }

    // Another one in its place. Answers a watch on it.
    std::weak_ptr<CharDevice> replace(std::shared_ptr<CharDevice> device) {
        device_ = std::move(device);
        return device_;
    }

    void put(std::uint16_t queue, std::uint16_t tag, const kernel::abi::IoDesc& descriptor) {
        std::memcpy(mapping_.data() + queue * stride() + tag * sizeof(descriptor), &descriptor,
                    sizeof(descriptor));
    }

    // What a write's request carries, and what a read's was given; `bytes` past it there is
    // nothing, as with memory that the driver cannot reach.
    void put_data(std::uint16_t queue, std::uint16_t tag, const std::vector<std::byte>& data) {
        const auto end = data_offset(queue, tag) + static_cast<off_t>(data.size());
        if (pwrite(device_->fd.get(), data.data(), data.size(), data_offset(queue, tag)) !=
                static_cast<ssize_t>(data.size()) ||
            ftruncate(device_->fd.get(), end) != 0) {
            throw std::runtime_error("put_data");
        }
    }
    [[nodiscard]] std::vector<std::byte> data(std::uint16_t queue, std::uint16_t tag,
                                              std::size_t length) const {
        std::vector<std::byte> data(length);
        const ssize_t count =
            pread(device_->fd.get(), data.data(), length, data_offset(queue, tag));
        data.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
        return data;
    }

private:
    // As the driver has it: byte, tag and queue of a request, from bit 0, 25 and 41.
    static off_t data_offset(std::uint16_t queue, std::uint16_t tag) noexcept {
        return 0x8000'0000 + (off_t{queue} << 41) + (off_t{tag} << 25);
    }
    // As the driver has it, and not with the code under test: every queue's array has room for the
    // largest depth, whatever the device's.
    static std::size_t stride() {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        constexpr std::size_t array = 4096 * 24;
        return (array + page - 1) / page * page;
    }

    Mapping mapping_;
    std::shared_ptr<CharDevice> device_;
};

inline kernel::abi::IoDesc make_descriptor(std::uint32_t op_flags, std::uint64_t sector = 0,
                                           std::uint32_t sectors = 0) {
    kernel::abi::IoDesc descriptor{};
    descriptor.op_flags = op_flags;
    descriptor.nr_sectors = sectors;
    descriptor.start_sector = sector;
    return descriptor;
}

}  // namespace ashlar::test
