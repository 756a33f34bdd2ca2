// What a Device is behind its handle. Creation is in device.cc, the stages are in
// device_stages.cc.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ashlar/device.h>

#include "base/tick_clock.h"
#include "core/choices.h"
#include "core/device_queues.h"
#include "core/queue_threads.h"

namespace ashlar {

// A server that was killed lets go of its device a moment later.
inline constexpr std::chrono::milliseconds kServerEnds{2000};

// Queue threads never own it: ending it ends them.
struct Device::State {
    State(Control used_control, std::shared_ptr<Backend> used_backend, DeviceOptions used_options)
        : control(std::move(used_control)),
          backend(std::move(used_backend)),
          options(std::move(used_options)) {
        if (takes_time() || options.busy_poll.count() != 0) TickClock::begin_calibration();
    }

    [[nodiscard]] bool takes_time() const noexcept {
        return options.measure || options.observer != nullptr;
    }

    Error error(std::string operation, int code, std::string detail = {},
                std::string hint = {}) const {
        return Error{.operation = std::move(operation),
                     .code = code,
                     .device = info.id,
                     .detail = std::move(detail),
                     .hint = std::move(hint)};
    }

    Result<void> add(std::optional<DeviceId> id, std::uint64_t identity);
    Result<void> await_ownership();
    Result<void> take_over(DeviceId id);
    Result<void> await_no_server();
    Result<void> check_backend(const DeviceParams& params) const;
    Result<void> share_memory();
    Result<void> start();
    Result<void> begin_serving();
    Result<void> begin_recovery();
    Result<void> renew();
    Result<void> stop(bool if_unused);
    Result<void> quiesce();
    Result<void> check_quiesce() const;
    Result<void> send_no_more();
    Result<void> remove();
    Result<void> resize(std::uint64_t size);
    Result<void> trim_store();
    Result<void> check_resize(std::uint64_t size) const;
    Result<void> set_cpus(std::vector<std::vector<int>> cpus);
    Result<void> check_cpus(const std::vector<std::vector<int>>& cpus) const;
    void detach();
    Result<void> wait();
    Result<std::shared_ptr<CharDevice>> open_char_device();
    Result<void> make_threads();
    Result<std::vector<std::vector<int>>> cpus_of_parts();
    Result<void> serve();
    Result<void> await_state(DeviceState wanted, std::chrono::milliseconds bound);
    void settle();
    void give_up(bool recovering);
    Result<void> abandon(Error why);
    [[nodiscard]] unsigned thread_count() const noexcept;
    [[nodiscard]] Serving serving() const;
    [[nodiscard]] std::shared_ptr<DeviceQueues> current_queues() const {
        const std::lock_guard lock(mutex);
        return queues;
    }

    Control control;
    std::shared_ptr<Backend> backend;
    DeviceOptions options;  // constant once the device exists, but for cpus
    DeviceInfo info;
    Geometry geometry;
    Capabilities capabilities;
    Choice choice;
    std::shared_ptr<const SharedMemory> shared;
    bool restartable = false;  // the driver can start a stopped device again

    mutable std::mutex mutex;  // guards what follows
    DeviceStage stage = DeviceStage::created;
    std::shared_ptr<QueueThreadPool> pool;  // outlives the queues
    std::shared_ptr<DeviceQueues> queues;   // of the last time it served
};

}  // namespace ashlar
