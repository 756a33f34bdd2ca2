// SimDriver: a model of ublk_drv with one device, and of the block layer above it. What a server
// does against the driver's rules is a finding.
#pragma once

#include <sys/types.h>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "kernel/abi.h"
#include "sim/sim_kernel.h"

namespace ashlar::sim {

// Rates are per mille.
struct DriverOptions {
    std::uint64_t features = 0;  // f_* the device was made with
    std::uint64_t offered = 0;   // f_* of the kernel
    std::uint16_t queues = 1;
    std::uint16_t depth = 1;
    std::uint32_t io_max = 4096;
    std::uint32_t block = 512;      // bytes; of it user copy copies some, or all
    unsigned retries = 0;           // commands that end with EAGAIN or EINTR, not carried out
    unsigned refusals = 0;          // commands that end with ENOMEM, not carried out
    unsigned no_registrations = 0;  // automatic registrations that fail
    unsigned parts = 0;             // batch commits that are carried out in part
    unsigned copies = 0;            // user copies that are short, or end with EINTR or EFAULT
    Instant delivery = 20'000;      // the longest way of a request to the server
};

class SimDriver {
public:
    using Done = std::function<void(int error)>;        // 0 or an errno
    static constexpr std::int32_t kQueued = INT32_MIN;  // the command completes later

    SimDriver(SimKernel& kernel, const DriverOptions& options);
    SimDriver(const SimDriver&) = delete;
    SimDriver& operator=(const SimDriver&) = delete;
    ~SimDriver();

    // ---- The character device ----

    // Errors: EBUSY.
    [[nodiscard]] int open(Fd& fd);
    // The last that had it open is gone. Not while holds_commands().
    void release();
    [[nodiscard]] bool holds_commands() const noexcept;
    [[nodiscard]] bool is_open() const noexcept { return open_; }
    // read and write: user copy. As the system calls.
    ssize_t user_copy(std::byte* memory, std::size_t length, std::uint64_t position,
                      bool to_server);

    // ---- Control commands ----

    void start_dev(Done done);
    void stop_dev(Done done);
    void quiesce_dev(Instant bound, Done done);
    [[nodiscard]] int start_recovery();
    void end_recovery(Done done);
    // Whoever waits for the queues in start_dev or end_recovery waits no more: EINTR.
    void interrupt();
    [[nodiscard]] kernel::abi::DevState state() const noexcept { return state_; }

    // ---- The block device ----

    void submit(std::shared_ptr<BlockRequest> request);
    [[nodiscard]] std::size_t outstanding() const noexcept { return outstanding_; }
    [[nodiscard]] std::string describe() const;

    // ---- Commands of a ring: answers a result, or kQueued ----

    std::int32_t command(Ring& ring, std::uint32_t opcode, const kernel::abi::IoCmd& command,
                         std::uint64_t registration, Operation* operation);
    std::int32_t batch_command(Ring& ring, std::uint32_t opcode,
                               const kernel::abi::BatchIo& command, const std::byte* elements);
    std::int32_t batch_fetch(Ring& ring, std::uint32_t opcode, const kernel::abi::BatchIo& command,
                             std::uint16_t group, Operation& operation);
    void ring_closed(Ring& ring);
    // The ring's thread is woken by another one: that comes after the requests already on their
    // way.
    void deliver_all(Ring& ring);

    // ---- Who watches ----

    // A request reaches the server; a server has answered it.
    std::function<void(const BlockRequest&)> on_delivery;
    std::function<void(const BlockRequest&, std::int32_t result, int injected)> on_answer;

private:
    struct Io {
        bool active = false;    // a command is with the driver
        bool owned = false;     // a request is with the server
        bool get_data = false;  // its data was not copied yet
        bool cancelled = false;
        bool auto_registered = false;
        bool on_its_way = false;  // a request, to the server
        bool answered = false;    // the request is done when its buffer is not used any more
        std::int32_t result = 0;
        std::uint64_t address = 0;
        std::uint16_t auto_index = 0;
        bool fallback = false;
        std::uint64_t delivery = 0;      // its number
        int injected = 0;                // an error of ours, for this request
        unsigned registered = 0;         // buffers that are in use
        Ring* task = nullptr;            // who fetched it; not with batch commands
        Ring* memory_of = nullptr;       // the same, with them too
        Operation* operation = nullptr;  // of the command
        std::shared_ptr<BlockRequest> request{};
    };
    struct Fetch {
        Ring* ring = nullptr;
        std::uint16_t group = 0;
        Operation* operation = nullptr;
    };
    struct Queue {
        std::vector<Io> ios;
        std::uint32_t ready = 0;
        bool canceling = false;
        bool force_abort = false;
        bool fail_io = false;
        std::vector<std::shared_ptr<BlockRequest>> by_tag;  // null: free
        std::deque<std::shared_ptr<BlockRequest>> waiting;  // for a tag
        // Batch commands only.
        std::deque<std::uint16_t> arrived;
        std::deque<Fetch> fetches;
        std::uint64_t delivery = 0;
        bool dispatching = false;  // the first fetch is about to be used
    };
    struct Wait {
        std::function<bool()> is_over;
        std::function<void()> then;
    };

    [[nodiscard]] bool has(std::uint64_t feature) const noexcept {
        return (options_.features & feature) != 0;
    }
    [[nodiscard]] bool is_batch() const noexcept { return has(kernel::abi::f_batch_io); }
    [[nodiscard]] bool maps() const noexcept;
    [[nodiscard]] bool keeps_requests() const noexcept;
    [[nodiscard]] bool reissues() const noexcept;
    [[nodiscard]] bool recovers() const noexcept;
    [[nodiscard]] bool ready() const noexcept { return queues_ready_ == queues_.size(); }
    void finding(const char* what, std::uint16_t queue, std::uint16_t tag);
    std::int32_t broken(const char* what, std::uint16_t queue, std::uint16_t tag, int code);
    Instant soon() { return kernel_.random.below(options_.delivery) + 100; }

    // sim_driver.cc: the device's life
    void wait_for(std::function<bool()> is_over, std::function<void()> then);
    void look_again();
    void locked(std::function<void()> call);
    void unlock();
    void stop_unlocked(std::function<void()> then);
    void delete_disk(std::function<void()> then);
    void became_ready(const Done& done, bool recovery);
    void set_canceling(bool canceling);
    void start_cancel();
    void cancel_commands();
    void cancel_command(std::uint16_t queue, std::uint16_t tag);
    void await_idle(Instant deadline, const Done& done);
    void work_off_release();
    void fail_or_requeue(const std::shared_ptr<BlockRequest>& request);
    void reset();
    [[nodiscard]] bool no_disk() const noexcept { return !disk_; }

    // sim_block.cc: the block layer
    void begin_waiting(std::uint16_t queue);
    void queue_request(const std::shared_ptr<BlockRequest>& request);
    void abort_request(const std::shared_ptr<BlockRequest>& request);
    void requeue(const std::shared_ptr<BlockRequest>& request);
    void kick_requeued();
    void complete(std::shared_ptr<BlockRequest> request, int error);
    [[nodiscard]] bool any_started() const noexcept;

    // sim_driver_io.cc: a command for a tag
    void fill_descriptor(const BlockRequest& request, std::uint64_t address);
    kernel::abi::IoDesc* descriptor(std::uint16_t queue, std::uint16_t tag) noexcept;
    void dispatch(std::uint16_t queue, std::uint16_t tag);
    void deliver(Io& io, const std::shared_ptr<BlockRequest>& request);
    bool copy_in(Io& io, const BlockRequest& request);
    void auto_register(Io& io, Ring& ring, const std::shared_ptr<BlockRequest>& request);
    int register_request(Io& io, Ring& ring, std::uint64_t index,
                         const std::shared_ptr<BlockRequest>& request);
    void mark_ready(std::uint16_t queue, Io& io);
    [[nodiscard]] int check_opcode(std::uint32_t opcode, std::uint16_t queue, std::uint16_t tag);
    [[nodiscard]] int check_address(std::uint16_t queue, std::uint16_t tag, std::uint64_t address,
                                    bool needed);
    [[nodiscard]] int check_registration(std::uint64_t registration, std::uint16_t queue,
                                         std::uint16_t tag);
    std::int32_t fetch(Ring& ring, Io& io, const kernel::abi::IoCmd& command,
                       std::uint64_t registration, Operation* operation);
    std::int32_t commit(Ring& ring, Io& io, const kernel::abi::IoCmd& command,
                        std::uint64_t registration, Operation* operation);
    std::int32_t take_data(Ring& ring, Io& io, const kernel::abi::IoCmd& command,
                           Operation* operation);
    std::int32_t take_buffer(Ring& ring, Io& io, const kernel::abi::IoCmd& command);
    void answer(Io& io, std::int32_t result);
    void finish_answered(Io& io, const std::shared_ptr<BlockRequest>& request);
    std::optional<std::int32_t> inject();

    // sim_driver_batch.cc: a command for many tags
    [[nodiscard]] int check_batch(const kernel::abi::BatchIo& command);
    std::int32_t prepare(Ring& ring, const kernel::abi::BatchIo& command,
                         const std::byte* elements);
    std::int32_t commit_all(Ring& ring, const kernel::abi::BatchIo& command,
                            const std::byte* elements);
    void use_fetch(std::uint16_t queue);
    void dispatch_batch(std::uint16_t queue);
    bool dispatch_one(Queue& queue, std::uint16_t tag, Ring& ring);
    void end_fetch(Queue& queue, std::size_t place, std::int32_t result);

    SimKernel& kernel_;
    const DriverOptions options_;
    int fd_ = -1;
    Mapping descriptors_;
    std::vector<Queue> queues_;
    kernel::abi::DevState state_ = kernel::abi::DevState::dead;
    bool disk_ = false;
    bool dying_ = false;     // the disk is being deleted
    bool quiesced_ = false;  // the block layer sends nothing
    bool open_ = false;
    bool stopping_ = false;
    bool canceling_ = false;
    std::size_t queues_ready_ = 0;
    std::size_t outstanding_ = 0;
    std::size_t on_their_way_ = 0;
    std::uint64_t last_delivery_ = 0;
    std::vector<std::shared_ptr<BlockRequest>> requeued_;
    std::vector<std::shared_ptr<BlockRequest>> held_back_;  // while quiesced
    std::list<Wait> waits_;
    bool looking_ = false;
    bool locked_ = false;
    std::deque<std::function<void()>> lock_waits_;
    unsigned interrupts_ = 0;
};

}  // namespace ashlar::sim
