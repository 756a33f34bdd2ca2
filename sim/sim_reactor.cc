#include "sim/sim_reactor.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace ashlar::sim {

namespace abi = kernel::abi;

SimReactor::SimReactor(SimKernel& kernel, unsigned number, const ReactorOptions& options,
                       const FileFaults& faults, std::function<void()> on_runnable)
    : kernel_(kernel),
      number_(number),
      options_(options),
      faults_(faults),
      on_runnable_(std::move(on_runnable)),
      slots_(options.buffers) {}

SimReactor::~SimReactor() = default;

void SimReactor::finding(const std::string& text) {
    kernel_.journal.finding("ring " + std::to_string(number_) + ": " + text);
}

void SimReactor::break_down(int code) {
    broken_ = code;
    became_runnable();
}

bool SimReactor::runnable() const noexcept {
    return !queued_.empty() || !completed_.empty() || broken_ != 0;
}

std::string SimReactor::leaks() const {
    std::string text;
    if (std::ranges::any_of(files_, [](int fd) { return fd >= 0; })) text += " a file";
    if (std::ranges::any_of(slots_, [](const Slot& slot) { return slot.reserved; })) {
        text += " reserved buffers";
    }
    if (std::ranges::any_of(slots_, [](const Slot& slot) { return slot.buffer != nullptr; })) {
        text += " a registered buffer";
    }
    if (std::ranges::any_of(groups_, [](const Group& group) { return group.count != 0; })) {
        text += " a buffer group";
    }
    if (!flights_.empty()) text += " an operation";
    return text;
}

bool SimReactor::uses(int fd) const noexcept {
    return std::ranges::find(files_, fd) != files_.end();
}

// ---- What is registered ------------------------------------------------------------------------

Result<FileSlot> SimReactor::register_file(int fd) {
    if (files_.size() >= options_.files && std::ranges::count(files_, -1) == 0) {
        return std::unexpected(Error{.operation = "register file", .code = ENFILE});
    }
    const auto free = std::ranges::find(files_, -1);
    const auto slot = static_cast<FileSlot>(free - files_.begin());
    if (free == files_.end()) files_.push_back(-1);
    files_[slot] = fd;
    return slot;
}

void SimReactor::unregister_file(FileSlot file) noexcept {
    if (file >= files_.size() || files_[file] < 0) {
        return finding("a file that is not registered is unregistered");
    }
    files_[file] = -1;
}

Result<std::uint16_t> SimReactor::reserve_buffers(unsigned count) {
    for (std::size_t first = 0; first + count <= slots_.size(); ++first) {
        const std::span<Slot> row = std::span(slots_).subspan(first, count);
        if (std::ranges::any_of(row, [](const Slot& slot) { return slot.reserved; })) continue;
        for (Slot& slot : row) slot.reserved = true;
        return static_cast<std::uint16_t>(first);
    }
    return std::unexpected(Error{.operation = "register buffers", .code = ENOSPC});
}

void SimReactor::release_buffers(std::uint16_t first, unsigned count) noexcept {
    if (first + count > slots_.size()) return finding("buffers are released wrongly");
    for (std::size_t i = first; i < first + count; ++i) {
        if (!slots_[i].reserved) finding("a buffer is released twice");
        slots_[i].reserved = false;
    }
}

int SimReactor::register_buffer(std::uint64_t index, std::shared_ptr<RegisteredBuffer> buffer) {
    if (dead_ || index >= slots_.size()) return -EINVAL;
    if (slots_[index].buffer != nullptr) return -EBUSY;
    slots_[index].buffer = std::move(buffer);
    return 0;
}

int SimReactor::unregister_buffer(std::uint64_t index) {
    if (index >= slots_.size() || slots_[index].buffer == nullptr) return -EINVAL;
    const auto let_go = std::exchange(slots_[index].buffer, nullptr);
    return 0;
}

Result<std::uint16_t> SimReactor::open_buffer_group(std::span<std::byte> memory, unsigned count) {
    Group& group = groups_.emplace_back(Group{.memory = memory, .count = count, .free = {}});
    for (unsigned i = 0; i < count; ++i) group.free.push_back(static_cast<std::uint16_t>(i));
    return static_cast<std::uint16_t>(groups_.size() - 1);
}

void SimReactor::recycle_buffer(std::uint16_t group, std::uint16_t buffer) noexcept {
    Group& to = groups_.at(group);
    if (buffer >= to.count || std::ranges::find(to.free, buffer) != to.free.end()) {
        return finding("a buffer is given back twice");
    }
    to.free.push_back(buffer);
}

void SimReactor::close_buffer_group(std::uint16_t group) noexcept {
    if (groups_.at(group).count == 0) finding("a buffer group is closed twice");
    groups_.at(group).count = 0;
}

std::optional<Ring::Picked> SimReactor::pick_buffer(std::uint16_t group) {
    Group& from = groups_.at(group);
    if (from.count == 0) {
        finding("a buffer of a closed group is used");
        return std::nullopt;
    }
    if (from.free.empty()) return std::nullopt;
    const std::uint16_t buffer = from.free.front();
    from.free.erase(from.free.begin());
    const std::size_t size = from.memory.size() / from.count;
    return Picked{buffer, from.memory.subspan(buffer * size, size)};
}

// ---- Submitting --------------------------------------------------------------------------------

void SimReactor::add(const Entry& entry) {
    if (ended_) return finding("something is submitted by a thread that ends");
    if (dead_) return;
    // Full: it is pushed first.
    if (queued_.size() >= options_.entries) push(queued_.size());
    queued_.push_back(entry);
    became_runnable();
}

void SimReactor::io_command(const IoCommand& command, Operation& operation) noexcept {
    add({.kind = Entry::Kind::command,
         .file = command.file,
         .opcode = command.opcode,
         .io = command.command,
         .registration = command.registration,
         .operation = &operation});
}
void SimReactor::silent_io_command(const IoCommand& command) noexcept {
    add({.kind = Entry::Kind::command,
         .file = command.file,
         .opcode = command.opcode,
         .io = command.command});
}
void SimReactor::batch_command(FileSlot file, std::uint32_t opcode, const abi::BatchIo& command,
                               const std::byte* elements, Operation& operation) noexcept {
    add({.kind = Entry::Kind::batch,
         .file = file,
         .opcode = opcode,
         .batch = command,
         .elements = elements,
         .operation = &operation});
}
void SimReactor::batch_fetch(FileSlot file, std::uint32_t opcode, const abi::BatchIo& command,
                             std::uint16_t group, Operation& operation) noexcept {
    add({.kind = Entry::Kind::fetch,
         .file = file,
         .opcode = opcode,
         .batch = command,
         .group = group,
         .operation = &operation});
}
void SimReactor::control_command(int, std::uint32_t, const abi::CtrlCmd&, Operation&) noexcept {
    finding("control commands are not simulated");
}
void SimReactor::submit(const Submission& submission, Operation& operation) noexcept {
    add({.kind = Entry::Kind::operation, .submission = &submission, .operation = &operation});
}
void SimReactor::cancel(Operation& operation) noexcept {
    add({.kind = Entry::Kind::cancel, .operation = &operation});
}

// ---- Rounds ------------------------------------------------------------------------------------

void SimReactor::push(std::size_t most) {
    std::vector<Entry> entries;
    const std::size_t count = std::min(most, queued_.size());
    entries.assign(queued_.begin(), queued_.begin() + static_cast<std::ptrdiff_t>(count));
    queued_.erase(queued_.begin(), queued_.begin() + static_cast<std::ptrdiff_t>(count));
    for (const Entry& entry : entries) push_one(entry);
}

SimDriver* SimReactor::driver(FileSlot file) {
    const int fd = file < files_.size() ? files_[file] : -1;
    const auto found = kernel_.devices.find(fd);
    if (fd >= 0 && found != kernel_.devices.end()) return found->second;
    finding("a command to a file that is not registered");
    return nullptr;
}

void SimReactor::push_one(const Entry& entry) {
    if (entry.kind == Entry::Kind::operation) return start(entry);
    if (entry.kind == Entry::Kind::cancel) return take_off(entry);
    SimDriver* to = driver(entry.file);
    if (to == nullptr) return;
    std::int32_t result = 0;
    switch (entry.kind) {
        case Entry::Kind::command:
            result =
                to->command(*this, entry.opcode, entry.io, entry.registration, entry.operation);
            break;
        case Entry::Kind::batch:
            result = to->batch_command(*this, entry.opcode, entry.batch, entry.elements);
            break;
        default:
            result =
                to->batch_fetch(*this, entry.opcode, entry.batch, entry.group, *entry.operation);
            break;
    }
    if (result != SimDriver::kQueued && entry.operation != nullptr) {
        post(*entry.operation, result, 0);
    }
}

void SimReactor::post(Operation& operation, std::int32_t result, std::uint32_t flags) {
    if (dead_) return;
    completed_.push_back({&operation, result, flags});
    became_runnable();
}

// Of different operations either may have been the first to complete.
void SimReactor::reorder() {
    for (std::size_t i = 1; i < completed_.size(); ++i) {
        if (!kernel_.random.chance(250)) continue;
        Completed& before = completed_[i - 1];
        // What was there before a wake-up stays before it.
        if (before.operation == nullptr || completed_[i].operation == nullptr) continue;
        if (before.operation != completed_[i].operation) std::swap(before, completed_[i]);
    }
}

int SimReactor::run_once(std::optional<std::chrono::milliseconds>) noexcept {
    kernel_.running = this;
    ++rounds_;
    run_hooks();
    if (broken_ != 0) return broken_;
    std::size_t most = queued_.size();
    if (most > 1 && kernel_.random.chance(faults_.pushes)) most = kernel_.random.between(1, most);
    push(most);
    if (completed_.empty()) return ETIME;
    reorder();
    for (const Completed& one : std::exchange(completed_, {})) {
        if (one.operation != nullptr) {
            one.operation->complete(one.result, one.flags);
        } else {
            run_woken();
        }
    }
    kernel_.running = nullptr;
    return 0;
}

// A wake-up is a completion among others; what comes until it is looked at is part of it.
void SimReactor::run_woken() {
    for (Woken* woken : std::exchange(woken_, {})) woken->woken();
    for (auto& call : std::exchange(posted_, {})) call();
}

void SimReactor::add_wake_up() {
    if (!woken_.empty() || !posted_.empty()) return;
    // Task work is done in the order in which it came.
    for (const auto& [fd, device] : kernel_.devices) device->deliver_all(*this);
    completed_.push_back({});
    became_runnable();
}

void SimReactor::wake(Woken& woken) noexcept {
    if (dead_) return;
    add_wake_up();
    woken_.push_back(&woken);
}

void SimReactor::post(std::move_only_function<void()> call) {
    if (ended_ || dead_) return;
    add_wake_up();
    posted_.push_back(std::move(call));
}

void SimReactor::die() {
    if (std::exchange(dead_, true)) return;
    kernel_.running = nullptr;
    queued_.clear();
    completed_.clear();
    woken_.clear();
    posted_.clear();
    for (const auto& [fd, device] : kernel_.devices) device->ring_closed(*this);
}

void SimReactor::close() noexcept { die(); }

void SimReactor::finish() {
    // What was under way is carried out to its end, or not at all.
    for (Flight& flight : flights_) {
        const bool sleeps = flight.submission.kind == Submission::Kind::sleep;
        if (!sleeps && !flight.stuck && kernel_.random.chance(500)) carry_out(flight);
    }
    finished_ = true;
    flights_.clear();
    for (Slot& slot : slots_) {
        slot.reserved = false;
        const auto let_go = std::exchange(slot.buffer, nullptr);
    }
    files_.assign(files_.size(), -1);
}

}  // namespace ashlar::sim
