// Operation: something submitted to a reactor that will complete exactly once.
#pragma once

#include <cstdint>

namespace ashlar {

// Owner: whoever submits it; it must stay where it is until complete() was called.
// Thread: the reactor's.
class Operation {
public:
    // result: a count, or a negative errno. flags: those of the completion queue entry.
    virtual void complete(std::int32_t result, std::uint32_t flags) noexcept = 0;

protected:
    Operation() = default;
    Operation(const Operation&) = default;
    Operation& operator=(const Operation&) = default;
    ~Operation() = default;
};

}  // namespace ashlar
