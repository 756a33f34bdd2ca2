// Wire: one connection, carrying calls to the server and answers back.
#pragma once

#include <cstdint>

#include <ashlar/io.h>
#include <ashlar/task.h>

#include "backends/nbd/call.h"

namespace ashlar::nbd {

// Who asked. Thread: the queue's.
class Caller {
public:
    // Null: nobody waits for an answer with this cookie.
    virtual Call* find(std::uint64_t cookie) noexcept = 0;
    // The answer is there, and the wire has let go of the call.
    virtual void answered(Call& call, IoResult result) noexcept = 0;

protected:
    ~Caller() = default;
};

// Thread: the queue's.
class Wire {
public:
    Wire() = default;
    Wire(const Wire&) = delete;
    Wire& operator=(const Wire&) = delete;
    virtual ~Wire() = default;

    // Carries calls until the connection ends, which is never a success: ECANCELED when io was
    // cancelled, ECONNRESET when the server closed it, EPROTO when the server broke the protocol.
    // From then on the wire touches no call.
    virtual Task<> run(Io& io) = 0;
    // Leaves with the round. While run() is under way.
    virtual void send(Call& call) noexcept = 0;
    // Ends the connection soon.
    virtual void hang_up() noexcept = 0;
    // Tells the server that this was all. After run().
    virtual void say_goodbye() noexcept = 0;
    // Grows with whatever comes from the server.
    [[nodiscard]] std::uint64_t heard() const noexcept { return heard_; }

protected:
    std::uint64_t heard_ = 0;
};

}  // namespace ashlar::nbd
