// Tag: one slot of a queue, and its state machine.
//
//   home -> with_kernel -> serving -> with_kernel -> ... -> home
//                            |  ^
//                            v  |
//                         registering
//
// home: nobody uses it. with_kernel: it is fetched (or committed and fetched again); the kernel may
// write the buffer. serving: a request is ours; the session may use the buffer. registering: the
// driver makes the request's pages a registered buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <ashlar/io.h>
#include <ashlar/task.h>
#include <ashlar/types.h>

#include "base/assert.h"
#include "core/live_metrics.h"
#include "kernel/abi.h"
#include "reactor/reactor.h"

namespace ashlar {

class Queue;
class IoScope;

enum class TagState : std::uint8_t { home, with_kernel, serving, registering };

class Tag final : public Operation {
public:
    struct Memory {
        std::byte* buffer = nullptr;    // QueueConfig::buffer_bytes; null if that is 0
        std::byte* metadata = nullptr;  // QueueConfig::metadata_bytes; null if that is 0
        std::byte* arena = nullptr;
        std::size_t arena_bytes = 0;
    };
    Tag(Queue& queue, IoScope& scope, std::uint16_t index, std::uint16_t registered_index,
        const Memory& memory) noexcept
        : data(memory.buffer),
          queue_(queue),
          buffer_(memory.buffer),
          metadata_(memory.metadata),
          index_(index),
          registered_index_(registered_index),
          arena_(memory.arena, memory.arena_bytes),
          io_(arena_, scope) {}
    Tag(const Tag&) = delete;
    Tag& operator=(const Tag&) = delete;
    ~Tag() = default;

    // Of the tag's own commands: see Queue::completed.
    void complete(std::int32_t result, std::uint32_t flags) noexcept override;

    // The transitions; each asserts that it is allowed.
    void submitted() noexcept { move({TagState::home, TagState::serving}, TagState::with_kernel); }
    void returned() noexcept { move({TagState::with_kernel}, TagState::serving); }
    void registration_begun() noexcept { move({TagState::serving}, TagState::registering); }
    void registration_ended() noexcept { move({TagState::registering}, TagState::serving); }
    void retired() noexcept { move({TagState::with_kernel, TagState::serving}, TagState::home); }

    [[nodiscard]] TagState state() const noexcept { return state_; }
    [[nodiscard]] std::uint16_t index() const noexcept { return index_; }
    [[nodiscard]] std::uint16_t registered_index() const noexcept { return registered_index_; }
    [[nodiscard]] std::byte* buffer() const noexcept { return buffer_; }
    [[nodiscard]] std::byte* metadata() const noexcept { return metadata_; }
    [[nodiscard]] Queue& queue() const noexcept { return queue_; }
    [[nodiscard]] Io& io() noexcept { return io_; }

    // Used by Queue while serving.
    Request request;                // what the kernel asked for
    Request flush;                  // what follows it when FUA is emulated
    std::byte* data;                // where the request's bytes are or go, if that is memory
    LiveTimes::Begin begun{};       // where time is taken
    bool flush_after = false;       // FUA that the engine emulates
    bool flushing = false;          // doing so, for what was
    IoResult written{};             // with this result
    bool in_shared_memory = false;  // where the data is
    bool registered = false;        // by a command of ours, to be undone before the commit
    bool held = false;              // not to be answered: the next server gets the request
    Task<> task{};                  // when the session did not finish at once
    // Made by Queue, which keeps its address: where the kernel copies the data from or to; or the
    // sector of a zone_append that is committed, else 0. PerIoCommands sets the opcode and the
    // result, and submits it, once more if the kernel says so.
    IoCommand command{};

private:
    void move(std::initializer_list<TagState> from, TagState to) noexcept {
        bool allowed = false;
        for (const TagState state : from) allowed |= state_ == state;
        ASHLAR_ASSERT(allowed);
        state_ = to;
    }

    Queue& queue_;
    std::byte* buffer_;
    std::byte* metadata_;
    std::uint16_t index_;
    std::uint16_t registered_index_;
    TagState state_ = TagState::home;
    Arena arena_;
    Io io_;
};

}  // namespace ashlar
