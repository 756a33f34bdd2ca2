#include "conformance/backend_conformance.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace ashlar::test {
namespace {

constexpr std::uint64_t kFixedSeed = 20'240'611;
constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kIoMax = 1 << 20;
constexpr std::size_t kNoise = 16 * kPage;
constexpr auto kGuard = std::byte{0xc7};   // around buffers
constexpr auto kUnread = std::byte{0x3e};  // in a buffer before it is read into

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
class Buffer {
public:
    Buffer() : memory_(kIoMax + 3 * kPage, kGuard), guard_(kPage, kGuard) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.data()) + kPage;
        data_ = memory_.data() + kPage + (kPage - address % kPage) % kPage;
    }
    [[nodiscard]] std::byte* data() noexcept { return data_; }
    void fill(std::byte value, std::uint64_t length) noexcept {
        std::memset(data_, std::to_integer<int>(value), length);
    }
    void require_untouched_past(std::uint64_t length, const Request& request) {
        const bool before = std::memcmp(data_ - kPage, guard_.data(), kPage) == 0;
        const bool after = std::memcmp(data_ + length, guard_.data(), kPage) == 0;
        require(before && after, describe(request) + " wrote outside its buffer");
        fill(kGuard, length);
    }

private:
    std::vector<std::byte> memory_;
    std::vector<std::byte> guard_;
    std::byte* data_;
};

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
    void require_equal(const Request& request) {
        const std::size_t at = place(request.offset);
        if (std::memcmp(bytes_.data() + at, request.data, request.length) == 0) return;
        for (std::size_t i = 0; i < request.length; ++i) {
            if (known_[at + i] == 0 || bytes_[at + i] == request.data[i]) continue;
            throw Violation(describe(request) + " gave " +
                            std::to_string(std::to_integer<int>(request.data[i])) + " instead of " +
                            std::to_string(std::to_integer<int>(bytes_[at + i])) + " for byte " +
                            std::to_string(request.offset + i));
        }
        // It differs only where anything is allowed: that is the content from now on.
        std::memcpy(bytes_.data() + at, request.data, request.length);
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

// One session, driven on one thread over one range of the disk.
class Driver {
public:
    Driver(Backend& backend, const Conformance& conformance, std::uint64_t seed, Model& model)
        : geometry_(backend.geometry()),
          can_(backend.capabilities()),
          conformance_(conformance),
          model_(model),
          random_(seed) {
        auto session = backend.open_session();
        require(session.has_value(), "open_session failed");
        require(*session != nullptr, "open_session gave none");
        session_ = std::move(*session);
        for (std::byte& byte : noise_) byte = static_cast<std::byte>(random_() >> 56);
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
            write(offset, block(), false);
            read(offset, block());
        }
        write(first, std::min(io_max(), model_.size()), false);
        write(end - std::min(io_max(), model_.size()), std::min(io_max(), model_.size()), false);
        // Holes whose ends are not those of pages, with their neighbours looked at.
        for (const std::uint64_t blocks : {1U, 3U, 9U, 17U}) {
            const std::uint64_t offset = first + kPage - block() + (blocks % 2) * block();
            for (const bool no_unmap : {true, false}) {
                write(first, 16 * kPage, false);
                write_zeroes(offset, blocks * block(), no_unmap);
                read(first, 16 * kPage);
            }
            write(first, 16 * kPage, false);
            discard(offset, blocks * block());
            read(first, 16 * kPage);
        }
    }

    void check_whole_range() {
        for (std::uint64_t offset = 0; offset < model_.size(); offset += io_max()) {
            write(model_.start() + offset, std::min(io_max(), model_.size() - offset), false);
        }
        check_content();
        write_zeroes(model_.start(), model_.size(), false);
        check_content();
    }

    void check_random() {
        for (unsigned i = 0; i < conformance_.operations; ++i) {
            const auto [offset, length] = random_range();
            switch (pick(10)) {
                case 0: write_zeroes(offset, length, pick(2) == 0); break;
                case 1: discard(offset, length); break;
                case 2: flush(); break;
                case 3:
                case 4:
                case 5: read(offset, length); break;
                default: write(offset, length, pick(4) == 0); break;
            }
        }
        check_content();
    }

    // What is not advertised is refused, and leaves the data alone. A queue never asks for it.
    void check_refusals() {
        if (!can_.read_only) write(model_.start(), 4 * kPage, false);
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
            buffer_.fill(std::byte{1}, block());
            const Request request{.offset = model_.start(),
                                  .length = block(),
                                  .op = Op::write,
                                  .data = buffer_.data()};
            require(!serve(request).ok(), describe(request) + " succeeded on a read-only backend");
            buffer_.require_untouched_past(block(), request);
        }
        read(model_.start(), 4 * kPage);
    }

private:
    [[nodiscard]] std::uint64_t block() const noexcept { return geometry_.logical_block_size; }
    [[nodiscard]] static std::uint64_t io_max() noexcept { return kIoMax; }
    std::uint64_t pick(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }

    // Whole blocks, mostly few of them, often at an end of the range or where an earlier one was.
    std::pair<std::uint64_t, std::uint64_t> random_range() {
        const std::uint64_t blocks = model_.size() / block();
        const std::uint64_t most = std::min(blocks, io_max() / block());
        const std::uint64_t few = std::min<std::uint64_t>(most, 20);
        const std::uint64_t count = 1 + pick(pick(8) == 0 ? most : few);
        std::uint64_t first = pick(blocks - count + 1);
        if (pick(8) == 0) first = 0;
        if (pick(8) == 0) first = blocks - count;
        if (pick(4) == 0) first = std::min(last_block_, blocks - count);
        last_block_ = first + pick(count);
        return {model_.start() + first * block(), count * block()};
    }

    IoResult serve(const Request& request) {
        const Request before = request;
        std::optional<Task<>> task(session_->serve(io_, request));
        while (!task->done()) {
            require(conformance_.pump != nullptr,
                    describe(request) + " is not done, and there is no pump");
            conformance_.pump();
        }
        const IoResult result = task->result();
        task.reset();
        require(arena_.used() == 0, describe(before) + " left frames behind");
        if (result.ok()) {
            require(result.count() == 0 || result.count() == before.length,
                    describe(before) + " was answered with " + std::to_string(result.count()) +
                        " bytes: success means all of it");
        } else {
            require(result.error() > 0 && result.error() < 4096,
                    describe(before) + " gave no errno: " + std::to_string(result.error()));
        }
        return result;
    }
    void serve_well(const Request& request) {
        const IoResult result = serve(request);
        require(result.ok(),
                describe(request) + " failed with errno " + std::to_string(result.error()));
    }

    void read(std::uint64_t offset, std::uint64_t length) {
        buffer_.fill(kUnread, length);
        const Request request{
            .offset = offset, .length = length, .op = Op::read, .data = buffer_.data()};
        serve_well(request);
        model_.require_equal(request);
        buffer_.require_untouched_past(length, request);
    }

    void write(std::uint64_t offset, std::uint64_t length, bool fua) {
        if (can_.read_only) return;
        const Request request{.offset = offset,
                              .length = length,
                              .op = Op::write,
                              .fua = fua && can_.fua,
                              .data = buffer_.data()};
        // Another piece of the noise each time, so that a byte that is lost or moved is seen.
        for (std::uint64_t done = 0; done < length;) {
            const std::size_t skip = pick(kPage);
            const std::uint64_t piece = std::min<std::uint64_t>(length - done, kNoise - skip);
            std::memcpy(buffer_.data() + done, noise_.data() + skip, piece);
            done += piece;
        }
        model_.write(offset, buffer_.data(), length);
        serve_well(request);
        model_.require_equal(request);  // a backend has no business changing what it stores
        buffer_.require_untouched_past(length, request);
        if (request.fua || pick(4) != 0) return;
        read(offset, length);
    }

    void write_zeroes(std::uint64_t offset, std::uint64_t length, bool no_unmap) {
        if (!can_.write_zeroes || can_.read_only) return;
        serve_well(
            {.offset = offset, .length = length, .op = Op::write_zeroes, .no_unmap = no_unmap});
        model_.zero(offset, length);
    }
    void discard(std::uint64_t offset, std::uint64_t length) {
        if (!can_.discard || can_.read_only) return;
        serve_well({.offset = offset, .length = length, .op = Op::discard});
        model_.forget(offset, length);
    }
    void flush() {
        if (can_.flush) serve_well({.op = Op::flush});
    }

    const Geometry geometry_;
    const Capabilities can_;
    const Conformance& conformance_;
    Model& model_;
    std::mt19937_64 random_;
    std::uint64_t last_block_ = 0;
    Buffer buffer_;
    std::vector<std::byte> noise_ = std::vector<std::byte>(kNoise);
    std::vector<std::max_align_t> frames_{kPage / sizeof(std::max_align_t)};
    Arena arena_{reinterpret_cast<std::byte*>(frames_.data()), kPage};
    Io io_{arena_};
    std::unique_ptr<Session> session_;  // ends first
};

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
                Driver(*backend, conformance, seed + i, models[i]).check_random();
            } catch (const Violation& found) {
                const std::lock_guard lock(mutex);
                violation = std::string("with several threads: ") + found.what();
            }
        });
    }
    threads.clear();
    require(violation.empty(), violation);
    // Another session, on this thread, sees what those left.
    for (Model& model : models) Driver(*backend, conformance, seed, model).check_content();
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
            Driver driver(*backend, conformance, seed, model);
            driver.check_content();
            driver.check_refusals();
            driver.check_edges();
            driver.check_random();
            driver.check_whole_range();
        }
        check_threads(conformance, seed);
    } catch (const Violation& violation) {
        return std::string(violation.what()) + " (ASHLAR_TEST_SEED=" + std::to_string(seed) + ")";
    }
    return {};
}

}  // namespace ashlar::test
