// Counters of one queue thread's part of a queue, as they are being counted.
#pragma once

#include <atomic>
#include <cstdint>

#include <ashlar/device.h>
#include <ashlar/types.h>

namespace ashlar {

// Written by the queue's thread only, so a plain load and store is enough; kept by the device, so
// that they outlive the queue. Read by any thread.
struct alignas(64) LiveCounters {
    std::atomic<std::uint64_t> reads = 0, writes = 0, flushes = 0, discards = 0, write_zeroes = 0,
                               others = 0, read_bytes = 0, write_bytes = 0, errors = 0;

    static void add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) noexcept {
        counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }

    void count(const Request& request, bool failed) noexcept {
        switch (request.op) {
            case Op::read:
                add(reads, 1);
                add(read_bytes, request.length);
                break;
            case Op::write:
                add(writes, 1);
                add(write_bytes, request.length);
                break;
            case Op::flush: add(flushes, 1); break;
            case Op::discard: add(discards, 1); break;
            case Op::write_zeroes: add(write_zeroes, 1); break;
            default: add(others, 1); break;
        }
        if (failed) [[unlikely]]
            add(errors, 1);
    }

    void add_to(QueueCounters& sum) const noexcept {
        const auto get = [](const std::atomic<std::uint64_t>& counter) {
            return counter.load(std::memory_order_relaxed);
        };
        sum.reads += get(reads);
        sum.writes += get(writes);
        sum.flushes += get(flushes);
        sum.discards += get(discards);
        sum.write_zeroes += get(write_zeroes);
        sum.others += get(others);
        sum.read_bytes += get(read_bytes);
        sum.write_bytes += get(write_bytes);
        sum.errors += get(errors);
    }
};

}  // namespace ashlar
