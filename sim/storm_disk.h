// Backends for storm: a disk whose sessions are coroutines over simulated files, and a witness that
// sees what every session is asked and answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include <ashlar/backend.h>

namespace ashlar::sim {

// What the sessions of a backend did with requests, by queue and tag.
class Watcher {
public:
    virtual void session_opened() = 0;
    virtual void session_ended(bool closed) = 0;
    virtual void serving(const Request& request) = 0;
    virtual void served(const Request& request, IoResult result) = 0;
    virtual void located(const Request& request) = 0;
    // An operation of the disk underneath has ended with an error.
    virtual void failed(const Request& request, int error) = 0;

protected:
    ~Watcher() = default;
};

struct DiskOptions {
    Geometry geometry{};
    Capabilities capabilities{};
    DataAccess access = DataAccess::routes;
    std::uint32_t copied_write_max = 0;
    int fd = -1;                     // of SimFiles
    std::uint32_t bound_micros = 0;  // of each operation; 0: none
    Watcher* watcher = nullptr;      // outlives the disk
};
[[nodiscard]] std::shared_ptr<Backend> open_disk(const DiskOptions& options);
// watcher outlives the backend and its sessions.
[[nodiscard]] std::shared_ptr<Backend> open_witness(std::shared_ptr<Backend> inner,
                                                    Watcher& watcher);

}  // namespace ashlar::sim
