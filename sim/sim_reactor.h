// SimReactor: a Reactor on the virtual clock. Commands go to the simulated driver, operations to
// the simulated files; they complete in a drawn order, at drawn times, with drawn faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "reactor/reactor.h"
#include "sim/sim_driver.h"
#include "sim/sim_kernel.h"

namespace ashlar::sim {

// What goes wrong with operations on files. Rates are per mille.
struct FileFaults {
    unsigned errors = 0;        // EIO or ENOSPC, nothing done
    unsigned lost_answers = 0;  // EIO, although it was done
    unsigned shorts = 0;
    unsigned again = 0;         // EAGAIN or EINTR, nothing done
    unsigned stuck = 0;         // never completes unless it is cancelled
    unsigned pushes = 0;        // rounds in which only some of what was queued leaves
    Instant latency = 100'000;  // the longest
};

class SimReactor final : public Reactor, public Ring {
public:
    // number: of this ring, for the journal. on_runnable: run_once() has something to do.
    SimReactor(SimKernel& kernel, unsigned number, const ReactorOptions& options,
               const FileFaults& faults, std::function<void()> on_runnable);
    ~SimReactor() override;

    // ---- The simulation's ----

    // The ring is of no use from now on: run_once() answers this errno.
    void break_down(int code);
    // Its thread is ending: the kernel takes its commands back, and nothing completes any more.
    void die();
    // The thread has ended, and with it all that was still under way.
    void finish();
    [[nodiscard]] bool runnable() const noexcept;
    // What was not given back; empty if nothing.
    [[nodiscard]] std::string leaks() const;
    [[nodiscard]] bool uses(int fd) const noexcept;

    // ---- Reactor ----

    Result<FileSlot> register_file(int fd) override;
    void unregister_file(FileSlot file) noexcept override;
    Result<std::uint16_t> reserve_buffers(unsigned count) override;
    void release_buffers(std::uint16_t first, unsigned count) noexcept override;
    Result<std::uint16_t> open_buffer_group(std::span<std::byte> memory, unsigned count) override;
    void recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept override;
    void close_buffer_group(std::uint16_t group) noexcept override;
    void io_command(const IoCommand& command, Operation& operation) noexcept override;
    void silent_io_command(const IoCommand& command) noexcept override;
    void batch_command(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                       const std::byte* elements, Operation& operation) noexcept override;
    void batch_fetch(FileSlot file, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                     std::uint16_t group, Operation& operation) noexcept override;
    void control_command(int fd, std::uint32_t opcode, const kernel::abi::CtrlCmd& command,
                         Operation& operation) noexcept override;
    void submit(const Submission& submission, Operation& operation) noexcept override;
    void cancel(Operation& operation) noexcept override;
    // Never waits: ETIME when nothing has completed.
    int run_once(std::optional<std::chrono::milliseconds> timeout) noexcept override;
    void wake(Woken& woken) noexcept override;
    void post(std::move_only_function<void()> call) override;
    void thread_ends() noexcept override { ended_ = true; }
    void close() noexcept override;

    // ---- Ring ----

    void post(Operation& operation, std::int32_t result, std::uint32_t flags) override;
    [[nodiscard]] bool closed() const noexcept override { return dead_; }
    int register_buffer(std::uint64_t index, std::shared_ptr<RegisteredBuffer> buffer) override;
    int unregister_buffer(std::uint64_t index) override;
    std::optional<Picked> pick_buffer(std::uint16_t group) override;
    [[nodiscard]] unsigned number() const noexcept override { return number_; }

private:
    // Submitted, not pushed yet.
    struct Entry {
        enum class Kind : std::uint8_t { command, batch, fetch, operation, cancel };
        Kind kind = Kind::command;
        FileSlot file = 0;
        std::uint32_t opcode = 0;
        kernel::abi::IoCmd io{};
        std::uint64_t registration = 0;
        kernel::abi::BatchIo batch{};
        const std::byte* elements = nullptr;
        std::uint16_t group = 0;
        const Submission* submission = nullptr;
        Operation* operation = nullptr;  // null: silent
    };
    // Pushed: an operation on a file, or a sleep.
    struct Flight {
        std::uint64_t id = 0;
        Submission submission{};
        Operation* operation = nullptr;
        std::shared_ptr<RegisteredBuffer> registered{};
        bool done = false;  // it was carried out
        std::int32_t result = 0;
        std::int32_t failure = 0;  // what it answers instead, if not 0
        bool lost = false;         // it answers `failure`, although it is carried out
        std::uint32_t most = 0;    // bytes it moves, if not all: not 0
        bool stuck = false;
    };
    struct Completed {
        Operation* operation = nullptr;  // null: a wake-up
        std::int32_t result = 0;
        std::uint32_t flags = 0;
    };
    struct Slot {
        bool reserved = false;
        std::shared_ptr<RegisteredBuffer> buffer{};
    };
    struct Group {
        std::span<std::byte> memory;
        unsigned count = 0;  // 0: closed
        std::vector<std::uint16_t> free;
    };

    void add(const Entry& entry);
    void push(std::size_t most);
    void push_one(const Entry& entry);
    void start(const Entry& entry);
    void draw_fault(Flight& flight);
    void take_off(const Entry& entry);
    void carry_out(Flight& flight);
    [[nodiscard]] std::int32_t execute(Flight& flight);
    [[nodiscard]] std::int32_t move_vectors(const Submission& submission);
    void land(std::uint64_t id, std::int32_t result, bool drop);
    Flight* find(std::uint64_t id) noexcept;
    [[nodiscard]] SimDriver* driver(FileSlot file);
    void finding(const std::string& text);
    void reorder();
    void add_wake_up();
    void run_woken();
    void became_runnable() {
        if (!ended_ && !dead_ && on_runnable_) on_runnable_();
    }

    SimKernel& kernel_;
    const unsigned number_;
    const ReactorOptions options_;
    const FileFaults faults_;
    const std::function<void()> on_runnable_;
    std::vector<Entry> queued_;
    std::vector<Flight> flights_;
    std::vector<Completed> completed_;
    std::vector<int> files_;  // -1: free
    std::vector<Slot> slots_;
    std::vector<Group> groups_;
    std::vector<Woken*> woken_;
    std::vector<std::move_only_function<void()>> posted_;
    std::uint64_t last_flight_ = 0;
    int broken_ = 0;
    bool ended_ = false;
    bool dead_ = false;
    bool finished_ = false;
};

}  // namespace ashlar::sim
