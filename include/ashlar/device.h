// Device: one /dev/ublkbN and the queues that serve it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ashlar/backend.h>
#include <ashlar/control.h>
#include <ashlar/metrics.h>
#include <ashlar/result.h>

namespace ashlar {

// A kernel thread that takes submissions from memory (IORING_SETUP_SQPOLL), one a ring: saves the
// server its system calls while the disk is busy, and costs a CPU.
struct SubmissionPolling {
    std::optional<unsigned> cpu{};         // where it runs; default: anywhere
    std::chrono::milliseconds idle{1000};  // 1 or more; how long it spins before it sleeps
};

// How the data of reads and writes gets from the kernel's request to the backend.
enum class DataPath : std::uint8_t {
    automatic,         // the cheapest that the kernel offers for this backend; never stays so
    zero_copy,         // the request's pages are a registered buffer of the ring; the driver does
                       // that before the request arrives (6.16), else as below
    zero_copy_manual,  // the same, registered by a command of ours for each request (6.15)
    user_copy,         // read and written by the server through /dev/ublkcN (6.5)
    get_data,          // the driver copies, to an address given when the request is known
    copy,              // the driver copies, to and from a buffer a tag
};
[[nodiscard]] std::string_view name(DataPath path) noexcept;  // "zero-copy", ...

// How requests are fetched and committed.
enum class CommandStyle : std::uint8_t {
    automatic,  // what is faster; never stays so
    per_io,     // a command for each request
    batch,      // a command for all requests of a round (7.0)
};
[[nodiscard]] std::string_view name(CommandStyle style) noexcept;  // "per-io", "batch"

// Of queue threads, -20 (first) to 19 (last). Others wait for what a disk does, so its threads come
// before what else wants the CPU, as the kernel's own block workers do. Where the process may not
// (CAP_SYS_NICE, RLIMIT_NICE), the threads keep the process's. See setpriority(2).
inline constexpr int kNiceOfDisks = -20;

// What becomes of a device whose server ends without removing it: killed, crashed, or quiesced.
enum class Recovery : std::uint8_t {
    none,     // its block device goes away
    queue,    // it waits for the next server, and new requests with it; those in flight fail (6.0)
    reissue,  // the same, and those in flight are given to the next server (6.0). They may have
              // been carried out already: right for a backend that can do the same write twice
    fail,     // it waits for the next server; until then requests fail (6.13)
};
[[nodiscard]] std::string_view name(Recovery recovery) noexcept;  // "none", ...

// The longest that queue threads look for work before they sleep.
inline constexpr std::chrono::microseconds kBusyPollMost{1000};

// Threads that serve queues, of one device or of many. Without them a device makes its own.
class QueueThreads {
public:
    // nice: of the threads, -20 to 19. polling: the kernel takes submissions by itself (SQPOLL).
    // busy_poll: as DeviceOptions::busy_poll.
    struct Options {
        unsigned count = 1;      // 1 to 1024
        unsigned entries = 256;  // submissions one thread may collect a round, 1 to 32768
        int nice = kNiceOfDisks;
        std::optional<SubmissionPolling> polling{};
        std::chrono::microseconds busy_poll{0};
    };
    // Errors: EINVAL, EAGAIN (no more threads), ENOSYS/EPERM (io_uring), ENOMEM.
    [[nodiscard]] static Result<std::shared_ptr<QueueThreads>> create(Options options);

    QueueThreads(const QueueThreads&) = delete;
    QueueThreads& operator=(const QueueThreads&) = delete;
    // Requires that every device on them is stopped. The threads stand and fall together: a device
    // whose ring fails, or whose backend does not answer until the time-out of stop(), ends them
    // all, and with them the other devices, because only the end of a ring frees such requests.
    virtual ~QueueThreads() = default;

protected:
    QueueThreads() = default;
};

// How a device is made and served. Whatever is wrong in it is told by Device::create.
struct DeviceOptions {
    std::optional<DeviceId> id{};    // none: the lowest free one
    std::uint16_t queues = 1;        // 1 to 4096; the kernel uses at most one per CPU
    std::uint16_t depth = 256;       // requests in flight per queue, 1 to 4096
    std::uint32_t io_max = 1 << 20;  // bytes of the largest request, 4 KiB to 32 MiB
    bool read_only = false;          // even if the backend could write
    // Of a device with one queue: the kernel's I/O scheduler (mq-deadline) stays, as it always does
    // on a zoned disk. Else there is none soon after its start, as of a loop device or one with
    // several queues.
    bool keep_scheduler = false;
    bool partition_scan = true;  // false: the kernel does not look for partitions (7.0)
    // Files in memory (tmpfs, hugetlbfs, /proc/PID/fd/N of a memfd) that programs which use the
    // disk share with it (7.1): what they read and write by O_DIRECT from and to their own mapping
    // of it is never copied. Whole pages, at most 4 GiB each.
    std::vector<std::string> shared_memory{};
    DataPath data_path = DataPath::automatic;  // refused if kernel or backend cannot
    CommandStyle commands = CommandStyle::automatic;
    Recovery recovery = Recovery::none;
    // For a process without CAP_SYS_ADMIN, and only for that: the device is its user's, who alone
    // opens and controls it (6.3). It takes udev rules that give the user /dev/ublk-control and the
    // device's nodes: packaging/udev. Of data paths it has get-data and copy, and no recovery; the
    // kernel looks for no partitions, and kills a server that keeps a request for 30 seconds.
    bool unprivileged = false;
    std::uint64_t identity = 0;           // AddRequest::identity of a new device; 0: a random one
    std::uint16_t threads_per_queue = 1;  // 1 to depth; tags are dealt to them in turn (6.16)
    // Of the device's own; at most one for each part of a queue, which then runs on that queue's
    // CPUs, or near to it if that is one. 0: what the backend does best with
    // (Backend::best_threads), else that many.
    unsigned thread_count = 0;
    // Where the device's own threads run: one list of CPUs for all queues, or one for each. Empty:
    // on those that the kernel gives the queue; if that is one, those that share its cache.
    std::vector<std::vector<int>> cpus{};
    int nice = kNiceOfDisks;                     // of the device's own threads
    std::optional<SubmissionPolling> polling{};  // of the device's own threads
    // How long the device's own threads look for work before they sleep, up to kBusyPollMost; they
    // seldom do where that is mostly in vain. Saves waking them, at the price of a CPU while the
    // disk is busy at a low depth. 0: never.
    std::chrono::microseconds busy_poll{0};
    std::shared_ptr<QueueThreads> threads{};     // none: the device's own
    bool measure = false;  // take times: Metrics::timed. Requests are counted in any case
    std::shared_ptr<Observer> observer{};  // is told of each request; has times taken
    // Told whenever the device has stopped serving, so that wait() returns at once: for a program
    // that waits for many. On a queue thread: be short, and call nothing of a device.
    std::function<void()> on_end{};
    // Bound of every wait for the kernel or for a backend's answer. A backend that blocks a queue
    // thread in open_session or serve is waited for without bound, since nothing can end it.
    std::chrono::milliseconds timeout{10'000};
};

// created: added to the kernel, no block device yet. serving: the block device is there. stopping:
// it goes away, requests in flight are served to their end. stopped: may be started again.
// quiescing, quiesced: the same, but the block device stays and its users wait. failed: a queue
// could not go on; without recovery the block device is gone, with it the device may be started
// again. removed: the id is free, or another server's.
enum class DeviceStage : std::uint8_t {
    created,
    serving,
    stopping,
    stopped,
    quiescing,
    quiesced,
    failed,
    removed,
};
[[nodiscard]] std::string_view name(DeviceStage stage) noexcept;

// What was chosen where the options left the choice, and why, in a line for people.
struct DeviceChoices {
    DataPath data_path = DataPath::copy;
    CommandStyle commands = CommandStyle::per_io;
    unsigned threads = 1;  // of its own; not used when it shares threads with other devices
    std::string data_path_reason;
    std::string commands_reason;
};

// Thread: any, one call at a time, except stop(), stage() and metrics(), which may interrupt
// wait(). Destroying a device stops and removes it.
class Device {
public:
    // Adds the device to the kernel: nothing serves it yet. On failure nothing is left behind.
    // Errors: those of Control::open and add; EINVAL with what is allowed. The one exception is
    // an unprivileged device whose /dev/ublkcN does not become the user's in time, for want of the
    // udev rule (ETIMEDOUT): only root can remove it.
    [[nodiscard]] static Result<Device> create(std::shared_ptr<Backend> backend,
                                               const DeviceOptions& options);
    [[nodiscard]] static Result<Device> create(std::shared_ptr<Backend> backend) {
        return create(std::move(backend), DeviceOptions{});
    }

    // Takes over a device that has no server: one with recovery whose server ended or quiesced it
    // (it is then quiesced), or one that was stopped (stopped). start() has it served again. What
    // the device was made with stays as it is: id, queues, depth, io_max, data_path, commands,
    // recovery, unprivileged and identity of the options are not looked at.
    // Errors: ENODEV; EBUSY when it has a server; EINVAL when the backend's size, block sizes or
    // abilities are not the device's.
    [[nodiscard]] static Result<Device> recover(std::shared_ptr<Backend> backend, DeviceId id,
                                                const DeviceOptions& options);

    Device(Device&&) noexcept;
    Device& operator=(Device&&) noexcept;
    ~Device();

    // created, stopped or quiesced (or failed, with recovery) -> serving. When it returns, the
    // block device exists in the kernel; a quiesced one's users go on. On failure all is as before.
    // Errors: those of a session's opening; EBUSY when someone still holds the last block device.
    [[nodiscard]] Result<void> start();
    // serving -> quiesced: the block device stays, its requests wait in the kernel, and none is
    // lost: those in flight are answered first, or kept for the next server (Recovery::reissue).
    // Errors: EOPNOTSUPP (not with Recovery::none or fail; with Recovery::queue before 6.16, or
    // with batch commands; on shared threads), ETIMEDOUT as for stop().
    [[nodiscard]] Result<void> quiesce();
    // serving: the disk and its store have this many bytes from now on, while requests go on. What
    // is beyond the end of a smaller one is lost. Errors: EOPNOTSUPP (before 6.16, or the backend
    // cannot), EINVAL, EBUSY (not serving), ENOSPC and others of the backend; ETIMEDOUT when
    // requests beyond the new end did not end: then the disk is smaller, and the store is not.
    [[nodiscard]] Result<void> resize(std::uint64_t size);
    // serving: its threads run there from now on; as DeviceOptions::cpus, also after start().
    // Errors: EINVAL (no such CPU, or none that this process may use; not as many lists as queues),
    // EOPNOTSUPP (threads that it shares with other devices), EBUSY (not serving).
    [[nodiscard]] Result<void> set_cpus(std::vector<std::vector<int>> cpus);
    // The device stays in the kernel as it is, for another server; this object has nothing to do
    // with it any more. Not while it serves.
    void detach();
    // Returns when the device no longer serves: it was stopped (here or by another process), or a
    // queue failed (then the error says why).
    [[nodiscard]] Result<void> wait();
    // serving or quiesced -> stopped. Requests in flight are served first. When the time is over,
    // what they await of Io is cancelled; if the backend still does not answer all of them, they
    // fail, the device is failed, and the error says so.
    [[nodiscard]] Result<void> stop();
    // The same, unless someone has the block device open: then EBUSY, and nothing has changed.
    // EOPNOTSUPP before 7.0, whose driver cannot tell.
    [[nodiscard]] Result<void> stop_if_unused();
    // Any stage -> removed. Stops first; an error of stop() is told, but does not keep the device.
    [[nodiscard]] Result<void> remove();

    [[nodiscard]] DeviceStage stage() const noexcept;
    [[nodiscard]] const DeviceInfo& info() const noexcept;  // as negotiated; pid and state: at add
    [[nodiscard]] const DeviceChoices& choices() const noexcept;
    [[nodiscard]] Geometry geometry() const noexcept;
    [[nodiscard]] std::string block_path() const;  // "/dev/ublkbN"
    [[nodiscard]] std::string char_path() const;   // "/dev/ublkcN"
    // Since the last start(). What it costs is the caller's, not the queues'.
    [[nodiscard]] Metrics metrics() const;

private:
    struct State;
    explicit Device(std::shared_ptr<State> state) noexcept;
    std::shared_ptr<State> state_;  // shared with the queues that still end
};

}  // namespace ashlar
