// Commands: how a queue's requests are fetched from the driver and their results committed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

#include <ashlar/device.h>

#include "base/units.h"
#include "core/tag.h"

namespace ashlar {

class Queue;

// What a queue and its commands need to know of the device; constant while it serves.
struct QueueConfig {
    DeviceId device = 0;
    std::uint16_t index = 0;
    std::uint16_t depth = 0;      // of the whole queue
    std::uint16_t first_tag = 0;  // this thread's part of it: first_tag, + tag_step, ...
    std::uint16_t tag_step = 1;
    std::uint32_t io_max = 0;
    std::uint64_t size = UINT64_MAX;  // bytes of the disk when the queue opens
    bool ioctl_commands = true;       // else the legacy opcodes of kernels before 6.4
    DataPath data_path = DataPath::copy;
    CommandStyle commands = CommandStyle::per_io;
    DataAccess access = DataAccess::sees;
    Capabilities capabilities{};
    std::uint64_t zone_size = 0;  // bytes; 0: no zoned disk
    Metadata metadata{};
    // Where each buffer of shared memory lies that is registered with the driver, by index.
    std::span<const std::span<std::byte>> shared{};
    std::uint32_t copied_write_max = 0;  // bytes; on the zero copy paths: Backend::copied_write_max

    [[nodiscard]] std::uint16_t tags() const noexcept {
        return static_cast<std::uint16_t>((depth - first_tag + tag_step - 1) / tag_step);
    }
    [[nodiscard]] bool zero_copy() const noexcept {
        return data_path == DataPath::zero_copy || data_path == DataPath::zero_copy_manual;
    }
    // Of each tag.
    [[nodiscard]] std::uint32_t buffer_bytes() const noexcept {
        // Whole pages: what lies underneath may want its data aligned.
        return zero_copy() ? round_up(std::min(copied_write_max, io_max), 4096U) : io_max;
    }
    [[nodiscard]] std::uint32_t metadata_bytes() const noexcept {
        return static_cast<std::uint32_t>(metadata.bytes_for(io_max));
    }
};

// Thread: the queue's. The queue is told by Queue::arrived, Queue::retire and Queue::refused.
class Commands {
public:
    Commands() = default;
    Commands(const Commands&) = delete;
    Commands& operator=(const Commands&) = delete;
    virtual ~Commands() = default;

    // Every tag of the queue goes to the kernel, in one submission.
    virtual void fetch_all() noexcept = 0;
    // result: as the kernel wants it. The tag is serving, and goes back to the kernel.
    virtual void commit(Tag& tag, std::int32_t result) noexcept = 0;
    // DataPath::get_data: the data of a write shall go to tag.command's address; the tag then
    // arrives again.
    virtual void get_data(Tag& tag) noexcept = 0;
    // A tag that is with the kernel waits there for a request: nothing of ours is on its way.
    [[nodiscard]] virtual bool is_settled(const Tag& tag) const noexcept = 0;
    // A tag's own command completed while it was with the kernel, with another result than that
    // the tag has a request.
    virtual void completed(Tag& tag, std::int32_t result) noexcept = 0;
};

[[nodiscard]] Result<std::unique_ptr<Commands>> open_per_io_commands(Queue& queue);
[[nodiscard]] Result<std::unique_ptr<Commands>> open_batch_commands(Queue& queue);

}  // namespace ashlar
