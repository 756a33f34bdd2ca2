// Queue: takes requests from the kernel, has them served, gives the results back. One request's
// way: Commands -> arrived -> give_buffer -> start -> finish -> commit -> Commands, on one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include <ashlar/backend.h>
#include <ashlar/device.h>

#include "base/fd.h"
#include "core/commands.h"
#include "core/io_scope.h"
#include "core/live_metrics.h"
#include "core/tag.h"
#include "reactor/reactor.h"

namespace ashlar {

// The open /dev/ublkcN, shared by its queues: closed when the last of them is gone, which is what
// tells the kernel that the server has let go.
struct CharDevice {
    Fd fd;
};

// How a queue ends whose device goes on with another server. What it serves then, it serves to the
// end and answers.
enum class Leaving : std::uint8_t {
    no,
    serving,  // so it does with what the kernel still sends, which is told to send no more
    holding,  // what the kernel still sends is kept unanswered: the driver gives it to the next one
};

// Who is told how a queue ends. Called on the queue's thread.
class QueueOwner {
public:
    virtual void queue_opened() noexcept = 0;
    // Every tag is home: the device was stopped, the queue may be destroyed (not in this call).
    virtual void queue_home(std::uint32_t part) noexcept = 0;
    // What leave() asked for is done. Only the fetches are with the kernel still, and end with the
    // thread; the queue is to stay until then. queue_home may follow.
    virtual void queue_left(std::uint32_t part) noexcept = 0;
    // The queue cannot go on. Requests in flight end when the character device is closed.
    virtual void queue_failed(std::uint32_t part, Error error) noexcept = 0;
    // The queue is being destroyed and has let go of everything.
    virtual void queue_closed() noexcept = 0;

protected:
    ~QueueOwner() = default;
};

// What a queue uses and does not own; all of it outlives the queue.
struct QueueSurroundings {
    Reactor& reactor;
    OffloadPool& offload;
    LiveMetrics& metrics;
    Observer* observer = nullptr;  // kept by the owner
    std::shared_ptr<CharDevice> device;
    std::shared_ptr<Backend> backend;
    std::shared_ptr<QueueOwner> owner;  // also keeps metrics alive
    std::uint32_t part = 0;             // how the owner knows this queue
};

// One thread's part of a queue, most often all of it. Thread: all of it on the reactor's thread.
class Queue final : private RoundHook {
public:
    // Maps descriptors and buffers, registers the device with the reactor and opens the backend's
    // session; fetches nothing yet.
    [[nodiscard]] static Result<std::unique_ptr<Queue>> open(const QueueConfig& config,
                                                             QueueSurroundings surroundings);
    // Requires that no tag is with the kernel, or that the thread has ended.
    ~Queue();
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    // Queues a fetch for every tag; they leave in one submission.
    void fetch_all() noexcept;
    // Nothing is with the kernel, nor does the session do anything any more.
    [[nodiscard]] bool home() const noexcept {
        return tags_home_ == tags_.size() && session_scope_.idle();
    }
    // The disk has this many bytes from now on. Answers whether requests are in service that reach
    // beyond; there will be no more of them.
    [[nodiscard]] bool resize(std::uint64_t size) noexcept;
    // Asks it to end although the device goes on. It tells the owner, once, when it has left.
    void leave(Leaving how) noexcept;
    // The thread cannot go on: tells the owner, unless the queue has left.
    void fail(int code) noexcept;
    // Requests end soon, with ECANCELED for what they wait for.
    void cancel_requests() noexcept {
        request_scope_.cancel_all();
        session_->cancel_requests();
    }
    // The thread ends before this queue came home: it lets go of the device. What the kernel may
    // still write to lives until the queue is destroyed: after Reactor::await_end().
    void thread_ends() noexcept;

    // ---- Called by Commands ----

    // The tag has a request.
    void arrived(Tag& tag) noexcept;
    // It has a write whose data the kernel has not copied yet.
    void arrived_without_data(Tag& tag) noexcept;
    // The kernel will not use the tag again: the device stops.
    void retire(Tag& tag) noexcept;
    // Something may have come to its end that the queue waits for before it leaves.
    void settled() noexcept {
        if (leaving_ != Leaving::no) [[unlikely]]
            continue_leaving();
    }
    // The kernel did not take something, which is submitted once more.
    void submitted_again() noexcept { left_round_.reset(); }
    // The kernel does not take what it must: the queue cannot go on.
    void refused(const char* what, int code) noexcept;
    [[nodiscard]] const QueueConfig& config() const noexcept { return config_; }
    [[nodiscard]] Reactor& reactor() noexcept { return with_.reactor; }
    [[nodiscard]] FileSlot file() const noexcept { return file_; }
    [[nodiscard]] std::deque<Tag>& tags() noexcept { return tags_; }

private:
    friend class Tag;
    Queue(const QueueConfig& config, QueueSurroundings surroundings) noexcept;

    Result<void> open();
    Result<void> map_memory();
    void make_tags();
    void let_go() noexcept;
    void completed(Tag& tag, std::int32_t result) noexcept;
    [[nodiscard]] const kernel::abi::IoDesc& descriptor(const Tag& tag) const noexcept;
    [[nodiscard]] int decode(Tag& tag, const kernel::abi::IoDesc& descriptor) noexcept;
    [[nodiscard]] bool is_user_copied(const Request& request) const noexcept;
    [[nodiscard]] bool give_buffer(Tag& tag, const kernel::abi::IoDesc& descriptor) noexcept;
    [[nodiscard]] bool give_memory(Tag& tag) noexcept;
    void place(Tag& tag) noexcept;
    void give_registered(Tag& tag) noexcept;
    void start(Tag& tag, const Request& request) noexcept;
    void finish(Tag& tag, IoResult result) noexcept;
    void note_begun(Tag& tag) noexcept;
    void note_answered(Tag& tag, IoResult result) noexcept;
    void commit(Tag& tag, IoResult result) noexcept;
    void give_back(Tag& tag, IoResult result) noexcept;
    // Beside the straight way, which the compiler is to leave straight.
    [[gnu::noinline]] void settle_fua(Tag& tag) noexcept;
    [[gnu::noinline]] [[nodiscard]] bool give_other_buffer(
        Tag& tag, const kernel::abi::IoDesc& descriptor) noexcept;
    [[gnu::noinline]] void name_address(Tag& tag, IoResult result) noexcept;
    [[gnu::noinline]] void commit_while_leaving(Tag& tag, IoResult result) noexcept;
    [[gnu::noinline]] void refuse(Tag& tag, int error) noexcept;
    [[gnu::noinline]] void refuse_at_once(Tag& tag, int error) noexcept;
    [[gnu::noinline]] void give_metadata(Tag& tag, const kernel::abi::IoDesc& descriptor) noexcept;
    [[gnu::noinline]] [[nodiscard]] bool give_shared(
        Tag& tag, const kernel::abi::IoDesc& descriptor) noexcept;
    [[nodiscard]] std::byte* shared_place(const kernel::abi::IoDesc& descriptor,
                                          std::uint64_t length) const noexcept;
    [[gnu::noinline]] [[nodiscard]] int copy_in(Tag& tag) noexcept;
    [[gnu::noinline]] [[nodiscard]] int copy_out(const Tag& tag) noexcept;
    [[nodiscard]] IoCommand buffer_command(const Tag& tag, std::uint32_t opcode) const noexcept;
    [[gnu::noinline]] void register_buffer(Tag& tag) noexcept;
    [[gnu::noinline]] void registered(Tag& tag, std::int32_t result) noexcept;
    [[gnu::noinline]] void finish_later(Tag& tag, Task<>&& task) noexcept;
    [[gnu::noinline]] void finish_in_place(Tag& tag) noexcept;
    [[gnu::noinline]] void flush_after(Tag& tag, IoResult written) noexcept;
    [[gnu::noinline]] void hold(Tag& tag) noexcept;
    [[gnu::noinline]] void continue_leaving() noexcept;
    [[nodiscard]] bool holds_back(IoResult result) const noexcept;
    void before_round() noexcept override;
    [[nodiscard]] bool is_unused(const Tag& tag) const noexcept;
    void session_idle() noexcept;

    const QueueConfig config_;
    std::uint64_t size_ = config_.size;
    QueueSurroundings with_;
    FileSlot file_ = 0;
    bool file_registered_ = false;
    bool thread_ends_ = false;
    bool failed_ = false;
    bool left_ = false;
    std::shared_ptr<bool> lives_ = std::make_shared<bool>();  // for what is posted to ask
    std::optional<std::uint64_t> left_round_;  // since when nothing is to be waited for
    Leaving leaving_ = Leaving::no;
    const bool address_varies_ = config_.data_path == DataPath::get_data || config_.zone_size != 0;
    std::uint32_t tags_home_ = 0;
    Mapping descriptors_;  // written by the kernel
    Mapping buffers_;
    Mapping metadata_;
    Mapping arenas_;
    std::uint16_t first_registered_ = 0;
    bool buffers_reserved_ = false;
    IoScope request_scope_;
    IoScope session_scope_;
    Arena session_arena_{nullptr, 0};  // its frames come from the heap: they are few and long-lived
    Io session_io_{session_arena_, session_scope_};
    std::unique_ptr<Session> session_;
    std::unique_ptr<Commands> commands_;
    std::deque<Tag> tags_;  // by index in this part of the queue; never moves an element
};

}  // namespace ashlar
