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

struct DiskOptions {
    Geometry geometry{};
    Capabilities capabilities{};
    DataAccess access = DataAccess::routes;
    int fd = -1;                     // of SimFiles
    std::uint32_t bound_micros = 0;  // of each operation; 0: none
};
[[nodiscard]] std::shared_ptr<Backend> open_disk(const DiskOptions& options);

// What the sessions of a backend did with requests, by queue and tag.
class Watcher {
public:
    virtual void serving(const Request& request) = 0;
    virtual void served(const Request& request, IoResult result) = 0;
    virtual void located(const Request& request) = 0;

protected:
    ~Watcher() = default;
};
// watcher outlives the backend and its sessions.
[[nodiscard]] std::shared_ptr<Backend> open_witness(std::shared_ptr<Backend> inner,
                                                    Watcher& watcher);

}  // namespace ashlar::sim
