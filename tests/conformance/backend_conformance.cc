#include "conformance/backend_conformance.h"

#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "core/io_scope.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar::test {
namespace {

constexpr std::uint64_t kFixedSeed = 20'240'611;
constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kIoMax = 1 << 20;
constexpr std::size_t kNoise = 16 * kPage;
constexpr std::size_t kSlots = 8;               // requests in flight at once
constexpr std::uint64_t kSlotIoMax = 64 << 10;  // of all slots but the first
constexpr std::size_t kFrameBytes = 8192;       // as a queue has for each tag
constexpr auto kGuard = std::byte{0xc7};        // around buffers
constexpr auto kUnread = std::byte{0x3e};       // in a buffer before it is read into

struct Violation : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::string describe(const Request& request) {
    return std::string(name(request.op)) + (request.fua ? " (fua)" : "") +
           (request.no_unmap ? " (no_unmap)" : "") + " of " + std::to_string(request.length) +
           " bytes at " + std::to_string(request.offset);
}

void require(bool holds, const std::string& what) {
    if (!holds) throw Violation(what);
}

// A tag's buffer: whole pages, with guards before and after.
class GuardedBuffer {
public:
    // memory: size + 2 * kPage bytes, where a page begins.
    GuardedBuffer(std::byte* memory, std::uint64_t size)
        : guard_(kPage, kGuard), data_(memory + kPage) {
        std::memset(memory, std::to_integer<int>(kGuard), size + 2 * kPage);
    }
    [[nodiscard]] std::byte* data() noexcept { return data_; }
    void fill(std::byte value, std::uint64_t length) noexcept {
        std::memset(data_, std::to_integer<int>(value), length);
    }
    void require_untouched_past(std::uint64_t length, const Request& request) {
        const bool before = std::memcmp(data_ - kPage, guard_.data(), kPage) == 0;
        const bool after = std::memcmp(data_ + length, guard_.data(), kPage) == 0;
        require(before && after, describe(request) + " wrote outside its buffer");
    }

private:
    std::vector<std::byte> guard_;
    std::byte* data_;
};
constexpr std::uint64_t kMemory = kIoMax + (kSlots - 1) * kSlotIoMax + kSlots * 2 * kPage;

Mapping map_memory() {
    void* memory =
        mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "no memory for the test");
    return {memory, kMemory};
}

// What the disk must hold in a range. A discarded byte may be anything until it is written.
class Model {
public:
    Model(std::uint64_t start, std::uint64_t size)
        : start_(start), bytes_(size, std::byte{0}), known_(size, 1) {}

    [[nodiscard]] std::uint64_t start() const noexcept { return start_; }
    [[nodiscard]] std::uint64_t size() const noexcept { return bytes_.size(); }

    // In whole pieces, not byte by byte: a disk is compared often, and builds for tests are slow.
    void write(std::uint64_t offset, const std::byte* from, std::uint64_t length) {
        std::memcpy(bytes_.data() + place(offset), from, length);
        std::memset(known_.data() + place(offset), 1, length);
    }
    void zero(std::uint64_t offset, std::uint64_t length) {
        std::memset(bytes_.data() + place(offset), 0, length);
        std::memset(known_.data() + place(offset), 1, length);
    }
    void forget(std::uint64_t offset, std::uint64_t length) {
        std::memset(known_.data() + place(offset), 0, length);
    }
    void require_equal(const Request& request, const std::byte* data) {
        const std::size_t at = place(request.offset);
        if (std::memcmp(bytes_.data() + at, data, request.length) == 0) return;
        for (std::size_t i = 0; i < request.length; ++i) {
            if (known_[at + i] == 0 || bytes_[at + i] == data[i]) continue;
            throw Violation(describe(request) + " gave " +
                            std::to_string(std::to_integer<int>(data[i])) + " instead of " +
                            std::to_string(std::to_integer<int>(bytes_[at + i])) + " for byte " +
                            std::to_string(request.offset + i));
        }
        // It differs only where anything is allowed: that is the content from now on.
        std::memcpy(bytes_.data() + at, data, request.length);
        std::memset(known_.data() + at, 1, request.length);
    }

private:
    [[nodiscard]] std::size_t place(std::uint64_t offset) const noexcept {
        return static_cast<std::size_t>(offset - start_);
    }
    std::uint64_t start_;
    std::vector<std::byte> bytes_;
    std::vector<unsigned char> known_;  // 0 after a discard
};

// What a queue has for each of its tags, and the request that is in it.
struct Slot {
    Slot(IoScope& scope, std::byte* memory, std::uint64_t size)
        : buffer(memory, size), io(arena, scope) {}

    GuardedBuffer buffer;
    std::vector<std::max_align_t> frames{kFrameBytes / sizeof(std::max_align_t)};
    Arena arena{reinterpret_cast<std::byte*>(frames.data()), kFrameBytes};
    Io io;
    Request request{};
    Task<> task{};
    bool busy = false;  // begun, and not looked at yet
    bool done = true;
    IoResult result{};
};

// One session, driven on one thread and its ring over one range of the disk.
class Driver {
public:
    Driver(Backend& backend, const Conformance& conformance, std::uint64_t seed, Model& model)
        : geometry_(backend.geometry()),
          can_(backend.capabilities()),
          holds_(backend.data_access() == DataAccess::holds),
          conformance_(conformance),
          model_(model),
          random_(seed) {
        // What only passes data on must do so also with buffers that only the kernel can reach.
        if (backend.data_access() == DataAccess::routes) {
            registered_.emplace(ring_, kMemory);
            memory_ = registered_->bytes().data();
        } else {
            plain_ = map_memory();
            memory_ = plain_.data();
        }
        for (std::byte* at = memory_; slots_.size() < kSlots;) {
            const std::uint64_t size = slots_.empty() ? kIoMax : kSlotIoMax;
            slots_.emplace_back(ring_.scope(), at, size);
            at += size + 2 * kPage;
        }
        auto session = backend.open_session(session_io_);
        require(session.has_value(), "open_session failed");
        require(*session != nullptr, "open_session gave none");
        session_ = std::move(*session);
        for (std::byte& byte : noise_) byte = static_cast<std::byte>(random_() >> 56);
    }
    Driver(const Driver&) = delete;
    Driver& operator=(const Driver&) = delete;
    // As a thread does whose ring ended, unless end() has been called.
    ~Driver() {
        if (!session_) return;
        ring_.reactor().close();
        ring_.scope().thread_ends();
        session_scope_.thread_ends();
        session_->close();
        slots_.clear();
        session_.reset();
    }

    // As a queue does that comes home.
    void end() {
        session_scope_.cancel_all();
        wait([&] { return session_scope_.idle(); }, "what the session does outside requests");
        session_->close();
        session_.reset();
    }

    // All of it, as the model has it; a fresh disk's is zeroes.
    void check_content() {
        for (std::uint64_t offset = 0; offset < model_.size(); offset += io_max()) {
            read(model_.start() + offset, std::min(io_max(), model_.size() - offset));
        }
    }

    // The places where things go wrong: the first block, the last, and both sides of a page.
    void check_edges() {
        const std::uint64_t first = model_.start();
        const std::uint64_t end = first + model_.size();
        for (const std::uint64_t offset :
             {first, end - block(), first + kPage - block(), first + kPage}) {
            write(offset, block());
            read(offset, block());
        }
        write(first, std::min(io_max(), model_.size()));
        write(end - std::min(io_max(), model_.size()), std::min(io_max(), model_.size()));
        // Holes whose ends are not those of pages, with their neighbours looked at.
        for (const std::uint64_t blocks : {1U, 3U, 9U, 17U}) {
            const std::uint64_t offset = first + kPage - block() + (blocks % 2) * block();
            for (const bool no_unmap : {true, false}) {
                write(first, 16 * kPage);
                write_zeroes(offset, blocks * block(), no_unmap);
                read(first, 16 * kPage);
            }
            write(first, 16 * kPage);
            discard(offset, blocks * block());
            read(first, 16 * kPage);
        }
    }

    void check_whole_range() {
        for (std::uint64_t offset = 0; offset < model_.size(); offset += io_max()) {
            write(model_.start() + offset, std::min(io_max(), model_.size() - offset));
        }
        check_content();
        write_zeroes(model_.start(), model_.size(), false);
        check_content();
    }

    void check_random() {
        for (unsigned i = 0; i < conformance_.operations; ++i) {
            const auto [offset, length] = random_range(model_.start(), model_.size(), io_max());
            const Request request = random_request(offset, length);
            if (request.op == Op::unknown) continue;
            serve_well(request);
            if (request.op == Op::write && !request.fua && pick(4) == 0) read(offset, length);
        }
        check_content();
    }

    // Several in flight, each in a part of the range of its own, so that the order is nobody's.
    void check_overlapping() {
        const std::uint64_t part = model_.size() / kSlots / block() * block();
        if (part < block()) return;
        for (unsigned i = 0; i < conformance_.operations / kSlots; ++i) {
            std::uint64_t start = model_.start();
            for (Slot& slot : slots_) {
                const auto [offset, length] = random_range(start, part, kSlotIoMax);
                const Request request = random_request(offset, length);
                if (request.op != Op::unknown) begin_well(slot, request);
                start += part;
            }
            for (Slot& slot : slots_) finish_well(slot);
        }
        check_content();
    }

    // What the engine does with a backend that holds its data: it copies there itself.
    void check_locate() {
        if (!holds_) return;
        std::size_t located = 0;
        for (unsigned i = 0; i < conformance_.operations / 4; ++i) {
            const auto [offset, length] = random_range(model_.start(), model_.size(), io_max());
            const Request to_read{.offset = offset, .length = length, .op = Op::read};
            const std::byte* from = session_->locate(to_read);
            if (from == nullptr) continue;
            ++located;
            model_.require_equal(to_read, from);
            const Request to_write{.offset = offset, .length = length, .op = Op::write};
            std::byte* const to = can_.read_only ? nullptr : session_->locate(to_write);
            if (to == nullptr) continue;
            fill_with_noise(to, length);
            model_.write(offset, to, length);
            read(offset, length);
        }
        require(located > 0, "it holds its data, but locates none of it");
        check_content();
    }

    // What is not advertised is refused, and leaves the data alone. A queue never asks for it.
    void check_refusals() {
        if (!can_.read_only) write(model_.start(), 4 * kPage);
        std::vector<Op> ops = {Op::zone_open,  Op::zone_close,     Op::zone_finish,
                               Op::zone_reset, Op::zone_reset_all, Op::report_zones};
        if (!can_.flush) ops.push_back(Op::flush);
        if (!can_.discard || can_.read_only) ops.push_back(Op::discard);
        if (!can_.write_zeroes || can_.read_only) ops.push_back(Op::write_zeroes);
        for (const Op op : ops) {
            const bool ranged = op != Op::flush && op != Op::zone_reset_all;
            const Request request{
                .offset = ranged ? model_.start() : 0, .length = ranged ? block() : 0, .op = op};
            require(!serve(request).ok(),
                    describe(request) + " is not advertised, but was answered with success");
        }
        if (can_.read_only) {
            const Request request{.offset = model_.start(), .length = block(), .op = Op::write};
            require(!serve(request).ok(), describe(request) + " succeeded on a read-only backend");
        }
        read(model_.start(), 4 * kPage);
    }

private:
    [[nodiscard]] std::uint64_t block() const noexcept { return geometry_.logical_block_size; }
    [[nodiscard]] static std::uint64_t io_max() noexcept { return kIoMax; }
    std::uint64_t pick(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }

    // Whole blocks of a part of the disk, mostly few of them, often at an end of it or where an
    // earlier one was.
    std::pair<std::uint64_t, std::uint64_t> random_range(std::uint64_t start, std::uint64_t size,
                                                         std::uint64_t length_max) {
        const std::uint64_t blocks = size / block();
        const std::uint64_t most = std::min(blocks, length_max / block());
        const std::uint64_t few = std::min<std::uint64_t>(most, 20);
        const std::uint64_t count = 1 + pick(pick(8) == 0 ? most : few);
        std::uint64_t first = pick(blocks - count + 1);
        if (pick(8) == 0) first = 0;
        if (pick(8) == 0) first = blocks - count;
        if (pick(4) == 0) first = std::min(last_block_, blocks - count);
        last_block_ = first + pick(count);
        return {start + first * block(), count * block()};
    }

    // Op::unknown when the backend cannot do what was drawn.
    Request random_request(std::uint64_t offset, std::uint64_t length) {
        Request request{.offset = offset, .length = length, .op = Op::unknown};
        const std::uint64_t draw = pick(10);
        if (draw >= 3 && draw < 6) {
            request.op = Op::read;
        } else if (draw == 2) {
            if (can_.flush) request = {.op = Op::flush};
        } else if (can_.read_only) {
            return request;
        } else if (draw == 0) {
            if (can_.write_zeroes) request.op = Op::write_zeroes;
            request.no_unmap = pick(2) == 0;
        } else if (draw == 1) {
            if (can_.discard) request.op = Op::discard;
        } else {
            request.op = Op::write;
            request.fua = can_.fua && pick(4) == 0;
        }
        return request;
    }

    template <class Done>
    void wait(Done done, const std::string& what) {
        const auto deadline = std::chrono::steady_clock::now() + conformance_.patience;
        while (!done()) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(
                deadline - std::chrono::steady_clock::now());
            require(left.count() > 0, what + " is not done in time");
            const int code = ring_.reactor().run_once(left);
            require(code == 0 || code == ETIME, "the ring broke");
        }
    }

    Buffer buffer_at(std::byte* data, std::uint32_t length) {
        if (!registered_ || pick(2) == 0) return Buffer::memory(data, length);
        return registered_->buffer(static_cast<std::uint32_t>(data - memory_), length);
    }

    void prepare(Slot& slot, const Request& request) {
        slot.buffer.fill(kGuard, slot.request.buffer.length());
        slot.request = request;
        std::byte* const data = slot.buffer.data();
        if (request.op == Op::read || request.op == Op::write) {
            slot.request.buffer = buffer_at(data, static_cast<std::uint32_t>(request.length));
        }
        if (request.op == Op::read) slot.buffer.fill(kUnread, request.length);
        if (request.op == Op::write) fill_with_noise(data, request.length);
    }
    // The request is on its way, or done already.
    void start(Slot& slot) {
        slot.busy = true;
        slot.done = false;
        slot.task = session_->serve(slot.io, slot.request);
        if (slot.task.done()) return ended(slot);
        // As a queue does: the task is destroyed as soon as it has ended, by its own ending.
        slot.task.on_done([](void* context) noexcept { ended(*static_cast<Slot*>(context)); },
                          &slot);
    }
    static void ended(Slot& slot) noexcept {
        slot.result = slot.task.result();
        slot.task = Task<>();
        slot.done = true;
    }

    IoResult finish(Slot& slot) {
        const Request& request = slot.request;
        const IoResult& result = slot.result;
        wait([&] { return slot.done; }, describe(request));
        slot.busy = false;
        require(slot.arena.used() == 0, describe(request) + " left frames behind");
        require(!result.ok() || result.count() == 0 || result.count() == request.length,
                describe(request) + " was answered with " + std::to_string(result.count()) +
                    " bytes: success means all of it");
        require(result.ok() || (result.error() > 0 && result.error() < 4096),
                describe(request) + " gave no errno: " + std::to_string(result.error()));
        if (request.buffer.length() > 0) {
            slot.buffer.require_untouched_past(request.length, request);
        }
        return result;
    }

    // With what it means for the content.
    void begin_well(Slot& slot, const Request& request) {
        prepare(slot, request);
        switch (request.op) {
            case Op::write_zeroes: model_.zero(request.offset, request.length); break;
            case Op::discard: model_.forget(request.offset, request.length); break;
            case Op::write: model_.write(request.offset, slot.buffer.data(), request.length); break;
            default: break;
        }
        start(slot);
    }
    void finish_well(Slot& slot) {
        if (!slot.busy) return;
        const Request& request = slot.request;
        const IoResult result = finish(slot);
        require(result.ok(),
                describe(request) + " failed with errno " + std::to_string(result.error()));
        // Of a write: a backend has no business changing what it stores.
        if (request.buffer.length() > 0) model_.require_equal(request, slot.buffer.data());
    }

    IoResult serve(const Request& request) {
        prepare(slots_.front(), request);
        start(slots_.front());
        return finish(slots_.front());
    }
    void serve_well(const Request& request) {
        begin_well(slots_.front(), request);
        finish_well(slots_.front());
    }

    void read(std::uint64_t offset, std::uint64_t length) {
        serve_well({.offset = offset, .length = length, .op = Op::read});
    }
    void write(std::uint64_t offset, std::uint64_t length) {
        if (can_.read_only) return;
        serve_well({.offset = offset, .length = length, .op = Op::write});
    }
    void write_zeroes(std::uint64_t offset, std::uint64_t length, bool no_unmap) {
        if (!can_.write_zeroes || can_.read_only) return;
        serve_well(
            {.offset = offset, .length = length, .op = Op::write_zeroes, .no_unmap = no_unmap});
    }
    void discard(std::uint64_t offset, std::uint64_t length) {
        if (!can_.discard || can_.read_only) return;
        serve_well({.offset = offset, .length = length, .op = Op::discard});
    }

    // Another piece of the noise each time, so that a byte that is lost or moved is seen.
    void fill_with_noise(std::byte* to, std::uint64_t length) {
        for (std::uint64_t done = 0; done < length;) {
            const std::size_t skip = pick(kPage);
            const std::uint64_t piece = std::min<std::uint64_t>(length - done, kNoise - skip);
            std::memcpy(to + done, noise_.data() + skip, piece);
            done += piece;
        }
    }

    const Geometry geometry_;
    const Capabilities can_;
    const bool holds_;
    const Conformance& conformance_;
    Model& model_;
    std::mt19937_64 random_;
    std::uint64_t last_block_ = 0;
    std::vector<std::byte> noise_ = std::vector<std::byte>(kNoise);
    RingRunner ring_;
    Mapping plain_;
    std::optional<RegisteredMemory> registered_;
    std::byte* memory_ = nullptr;  // of all slots
    IoScope session_scope_{ring_.reactor(), ring_.offload()};
    Arena session_arena_{nullptr, 0};
    Io session_io_{session_arena_, session_scope_};
    std::unique_ptr<Session> session_;
    std::deque<Slot> slots_;  // never moves one
};

template <class Checks>
void drive(Backend& backend, const Conformance& conformance, std::uint64_t seed, Model& model,
           Checks checks) {
    Driver driver(backend, conformance, seed, model);
    checks(driver);
    driver.end();
}

std::shared_ptr<Backend> open(const Conformance& conformance) {
    auto backend = conformance.open();
    require(backend.has_value(),
            "it did not open: " + (backend ? std::string() : backend.error().message()));
    require(*backend != nullptr, "opening gave none");
    return *backend;
}

void check_constants(Backend& backend) {
    const Geometry geometry = backend.geometry();
    auto valid = check_geometry(geometry);
    require(valid.has_value(), "geometry: " + (valid ? std::string() : valid.error().detail));
    require(backend.geometry().size == geometry.size, "its size changes");
    require(geometry.size >= 16 * kPage && geometry.size <= std::uint64_t{256} << 20,
            "the suite wants a size from 64 KiB to 256 MiB");
    const Capabilities can = backend.capabilities();
    require(!can.fua || can.flush, "it has FUA without a volatile cache (flush)");
    const std::string_view name = backend.name();
    require(!name.empty() && name == backend.name(), "its name is not constant");
}

// One range a thread, all at once: what one session does is nothing to its neighbours.
void check_threads(const Conformance& conformance, std::uint64_t seed) {
    const auto backend = open(conformance);
    const Geometry geometry = backend->geometry();
    const std::uint64_t block = geometry.logical_block_size;
    const std::uint64_t share = geometry.size / conformance.threads / block * block;
    if (share < 20 * block) return;
    std::vector<Model> models;
    for (unsigned i = 0; i < conformance.threads; ++i) models.emplace_back(i * share, share);
    std::mutex mutex;
    std::string violation;
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < conformance.threads; ++i) {
        threads.emplace_back([&, i] {
            try {
                drive(*backend, conformance, seed + i, models[i],
                      [](Driver& driver) { driver.check_random(); });
            } catch (const std::runtime_error& found) {
                const std::lock_guard lock(mutex);
                violation = std::string("with several threads: ") + found.what();
            }
        });
    }
    threads.clear();
    require(violation.empty(), violation);
    // Another session, on this thread, sees what those left.
    for (Model& model : models) {
        drive(*backend, conformance, seed, model, [](Driver& driver) { driver.check_content(); });
    }
}

}  // namespace

std::string check_conformance(const Conformance& conformance) {
    std::uint64_t seed = conformance.seed;
    if (seed == 0) {
        const char* text = std::getenv("ASHLAR_TEST_SEED");
        seed = text != nullptr ? std::strtoull(text, nullptr, 0) : kFixedSeed;
    }
    try {
        {
            const auto backend = open(conformance);
            check_constants(*backend);
            Model model(0, backend->geometry().size);
            drive(*backend, conformance, seed, model, [](Driver& driver) {
                driver.check_content();
                driver.check_refusals();
                driver.check_edges();
                driver.check_random();
                driver.check_overlapping();
                driver.check_locate();
                driver.check_whole_range();
            });
        }
        check_threads(conformance, seed);
    } catch (const Violation& violation) {
        return std::string(violation.what()) + " (ASHLAR_TEST_SEED=" + std::to_string(seed) + ")";
    }
    return {};
}

}  // namespace ashlar::test
