#include "sim/storm_server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ashlar::sim {

Server::Server(SimKernel& kernel, SimDriver& driver, const ServerOptions& options,
               std::shared_ptr<Backend> backend, std::vector<std::unique_ptr<SimReactor>>& rings)
    : kernel_(kernel), driver_(driver), options_(options), backend_(std::move(backend)) {
    const std::uint32_t parts = std::uint32_t{options.queues} * options.threads_per_queue;
    for (std::uint32_t part = 0; part < parts; ++part) metrics_.emplace_back();
    has_left_.resize(parts);
    for (unsigned i = 0; i < options.threads; ++i) {
        Thread& thread = threads_.emplace_back();
        const ReactorOptions ring{.entries = options.entries,
                                  .files = parts,
                                  .buffers = unsigned{options.queues} * options.depth};
        rings.push_back(std::make_unique<SimReactor>(kernel, static_cast<unsigned>(rings.size()),
                                                     ring, options.faults,
                                                     [this, &thread] { wake(thread); }));
        thread.reactor = rings.back().get();
    }
}

// ---- Opening -----------------------------------------------------------------------------------

void Server::open(std::function<void(std::optional<Error>)> then) {
    then_ = std::move(then);
    Fd fd;
    if (const int code = driver_.open(fd); code != 0) {
        kernel_.journal.note("busy");
        return then_(Error{.operation = "open", .code = code});
    }
    fd_ = fd.get();
    device_ = std::make_shared<CharDevice>(std::move(fd));
    watch_ = device_;
    const std::uint32_t parts = std::uint32_t{options_.queues} * options_.threads_per_queue;
    pending_ = parts;
    for (std::uint32_t part = 0; part < parts; ++part) {
        thread_of(part).reactor->post([this, part] { open_part(part); });
    }
}

void Server::open_part(std::uint32_t part) {
    Thread& thread = thread_of(part);
    const QueueConfig config{
        .device = 0,
        .index = static_cast<std::uint16_t>(part / options_.threads_per_queue),
        .depth = options_.depth,
        .first_tag = static_cast<std::uint16_t>(part % options_.threads_per_queue),
        .tag_step = options_.threads_per_queue,
        .io_max = options_.io_max,
        .ioctl_commands = options_.ioctl_commands,
        .data_path = options_.choices.data_path,
        .commands = options_.choices.commands,
        .access = backend_->data_access(),
        .capabilities = options_.capabilities,
        .copied_write_max = options_.user_copies ? backend_->copied_write_max() : 0,
    };
    auto queue = Queue::open(config, {.reactor = *thread.reactor,
                                      .offload = thread.offload,
                                      .metrics = metrics_[part],
                                      .device = device_,
                                      .backend = backend_,
                                      .owner = shared_from_this(),
                                      .part = part});
    if (!queue) return opened(queue.error());
    (*queue)->fetch_all();
    thread.queues.push_back(std::move(*queue));
    // Told a round later: by then a fetch that the driver refuses has come back.
    thread.reactor->post([this] { opened(std::nullopt); });
}

void Server::opened(std::optional<Error> error) {
    if (error && !failure_) failure_ = std::move(error);
    if (--pending_ > 0) return;
    device_.reset();
    opened_ = true;
    then_(failure_);
}

// ---- Threads -----------------------------------------------------------------------------------

void Server::wake(Thread& thread) {
    if (thread.ended || std::exchange(thread.awake, true)) return;
    // Now and then the thread has to wait for a CPU.
    const Instant limit = kernel_.random.chance(50) ? 300'000 : 4'000;
    kernel_.timeline.after(kernel_.random.below(limit) + 200, [this, &thread] {
        thread.awake = false;
        if (!thread.ended) run(thread);
    });
}

void Server::run(Thread& thread) {
    const int code = thread.reactor->run_once({});
    if (code != 0 && code != ETIME) {
        end(thread, code);
    } else if (thread.quit) {
        end(thread, 0);
    } else if (code == 0 || thread.reactor->runnable()) {
        wake(thread);
    }
    look_at_device();
}

// The loop of the thread has ended.
void Server::end(Thread& thread, int code) {
    if (thread.ended) return;
    kernel_.journal.note("thread ends", thread.reactor->number(), static_cast<unsigned>(code));
    for (auto& queue : thread.queues) queue->fail(code != 0 ? code : ECANCELED);
    close(thread);
}

void Server::close(Thread& thread) {
    if (std::exchange(thread.ended, true)) return;
    for (auto& queue : thread.queues) queue->thread_ends();
    thread.reactor->thread_ends();
    if (std::ranges::all_of(threads_, &Thread::ended)) {
        device_.reset();
        opened_ = true;
    }
    // What it had under way ends a while later.
    const Instant dies = kernel_.random.below(20'000) + 1;
    const Instant gone = dies + kernel_.random.below(500'000);
    kernel_.timeline.after(dies, [&thread] { thread.reactor->die(); });
    kernel_.timeline.after(gone, [this, &thread] { join(thread); });
}

void Server::join(Thread& thread) {
    thread.reactor->finish();
    thread.reactor->close();
    thread.queues.clear();
    thread.joined = true;
    look_at_device();
    if (on_change) on_change();
}

void Server::look_at_device() {
    if (released_ || fd_ < 0 || !watch_.expired()) return;
    for (const Thread& thread : threads_) {
        if (thread.reactor->uses(fd_)) return;
    }
    // A command that the driver has keeps the file open.
    if (driver_.holds_commands()) {
        kernel_.timeline.after(10'000, [this] { look_at_device(); });
        return;
    }
    released_ = true;
    driver_.release();
    if (on_change) on_change();
}

bool Server::gone() const noexcept {
    return std::ranges::all_of(threads_, [](const Thread& thread) { return thread.joined; });
}

std::string Server::describe() const {
    std::string text = "queues open " + std::to_string(open_) + ", left " + std::to_string(left_);
    for (const Thread& thread : threads_) {
        text += thread.joined ? "; thread gone" : thread.ended ? "; thread ended" : "; thread";
        if (!thread.ended && thread.reactor->runnable()) text += " runnable";
    }
    return text;
}

// ---- What the queues say -----------------------------------------------------------------------

void Server::queue_opened() noexcept { ++open_; }

void Server::queue_home(std::uint32_t part) noexcept {
    Thread& thread = thread_of(part);
    kernel_.journal.note("home", part);
    if (has_left_[part]) --left_;
    has_left_[part] = false;
    thread.reactor->post([this, &thread] {
        std::erase_if(thread.queues, [](const auto& queue) { return queue->home(); });
        look_at_device();
    });
}

void Server::queue_left(std::uint32_t part) noexcept {
    kernel_.journal.note("left", part);
    has_left_[part] = true;
    ++left_;
    if (left_ >= open_) quit();
}

void Server::queue_failed(std::uint32_t part, Error error) noexcept {
    kernel_.journal.note("queue fails", part, static_cast<unsigned>(error.code));
    if (!failure_) failure_ = std::move(error);
    quit();
}

void Server::queue_closed() noexcept {
    --open_;
    if (left_ != 0 && left_ >= open_) quit();
    if (open_ == 0 && opened_ && on_change) kernel_.timeline.after(1, [this] { on_change(); });
}

void Server::destroy() {
    for (Thread& thread : threads_) {
        close(thread);
        thread.reactor->die();
        thread.reactor->finish();
        thread.queues.clear();
    }
}

std::string Server::leaks() const {
    std::string text;
    for (const Thread& thread : threads_) text += thread.reactor->leaks();
    return text;
}

// ---- What is done to it ------------------------------------------------------------------------

void Server::quit() {
    for (Thread& thread : threads_) {
        thread.reactor->post([&thread] { thread.quit = true; });
    }
}

void Server::kill() {
    if (std::exchange(killed_, true)) return;
    kernel_.journal.note("killed");
    for (Thread& thread : threads_) thread.reactor->die();
    for (Thread& thread : threads_) close(thread);
    device_.reset();
    opened_ = true;
    look_at_device();
}

void Server::break_down(unsigned thread, int code) {
    threads_[thread % threads_.size()].reactor->break_down(code);
}

void Server::cancel_requests() {
    for (Thread& thread : threads_) {
        thread.reactor->post([&thread] {
            for (auto& queue : thread.queues) queue->cancel_requests();
        });
    }
}

void Server::leave(Leaving how) {
    for (Thread& thread : threads_) {
        thread.reactor->post([&thread, how] {
            for (auto& queue : thread.queues) queue->leave(how);
        });
    }
}

}  // namespace ashlar::sim
