// That the suite finds faults, and passes what is sound. Each fault is one line of a backend.
#include "conformance/backend_conformance.h"

#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "base/fd.h"

namespace ashlar::test {
namespace {

constexpr std::uint64_t kSize = 256 * 1024;

// A sound one, to be broken by those below.
class Sound {
public:
    explicit Sound(std::uint64_t size = kSize) : bytes_(size) {}
    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        std::memcpy(into.data(), at(offset), into.size());
        return {};
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        std::memcpy(at(offset), from.data(), from.size());
        return {};
    }
    IoResult flush() { return {}; }
    IoResult discard(Range range) {
        std::memset(at(range.offset), 0x11, range.length);  // anything is allowed
        return {};
    }
    IoResult write_zeroes(Range range, bool) {
        std::memset(at(range.offset), 0, range.length);
        return {};
    }

protected:
    std::byte* at(std::uint64_t offset) { return bytes_.data() + offset; }

private:
    std::vector<std::byte> bytes_;
};

template <class T>
std::string check(std::uint64_t seed = 1) {
    return check_conformance(
        {.open = [] { return Result<std::shared_ptr<Backend>>(make_backend(T())); },
         .seed = seed,
         .threads = 1});
}

TEST(Conformance, PassesASoundBackend) {
    for (const std::uint64_t seed : {1U, 2U, 3U}) EXPECT_EQ(check<Sound>(seed), "");
}

TEST(Conformance, PassesABackendThatCanOnlyReadAndWrite) {
    struct Plain {
        Sound sound;
        [[nodiscard]] std::uint64_t size() const { return sound.size(); }
        IoResult read(std::uint64_t o, std::span<std::byte> into) { return sound.read(o, into); }
        IoResult write(std::uint64_t o, std::span<const std::byte> from) {
            return sound.write(o, from);
        }
    };
    EXPECT_EQ(check<Plain>(), "");
}

TEST(Conformance, FindsALostByte) {
    struct Broken : Sound {
        IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
            return Sound::write(offset, from.first(from.size() - 1));
        }
    };
    const std::string violation = check<Broken>();
    EXPECT_NE(violation.find(" instead of "), std::string::npos) << violation;
    EXPECT_NE(violation.find("ASHLAR_TEST_SEED=1)"), std::string::npos) << violation;
}

TEST(Conformance, FindsAByteLostOnlyInOnePlace) {
    struct Broken : Sound {
        IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
            static_cast<void>(Sound::write(offset, from));
            if (offset <= 70'000 && offset + from.size() > 70'000) *at(70'000) = std::byte{0};
            return {};
        }
    };
    EXPECT_NE(check<Broken>().find("byte 70000"), std::string::npos) << check<Broken>();
}

TEST(Conformance, FindsAShortWriteAnsweredAsSuccess) {
    struct Broken : Sound {
        IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
            static_cast<void>(Sound::write(offset, from.first(from.size() / 2)));
            return IoResult::bytes(from.size() / 2);
        }
    };
    EXPECT_NE(check<Broken>().find("success means all of it"), std::string::npos);
}

TEST(Conformance, FindsAShortRead) {
    struct Broken : Sound {
        IoResult read(std::uint64_t offset, std::span<std::byte> into) {
            return Sound::read(offset, into.first(into.size() - 512));
        }
    };
    EXPECT_NE(check<Broken>().find("gave 62 instead of 0"), std::string::npos);
}

TEST(Conformance, FindsAReadPastItsBuffer) {
    struct Broken : Sound {
        IoResult read(std::uint64_t offset, std::span<std::byte> into) {
            into.data()[into.size()] = std::byte{0};
            return Sound::read(offset, into);
        }
    };
    EXPECT_NE(check<Broken>().find("wrote outside its buffer"), std::string::npos);
}

TEST(Conformance, FindsAWriteThatChangesItsData) {
    struct Broken : Sound {
        IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
            static_cast<void>(Sound::write(offset, from));
            auto* data = const_cast<std::byte*>(from.data());
            *data = ~*data;
            return {};
        }
    };
    EXPECT_NE(check<Broken>().find("write of "), std::string::npos);
}

TEST(Conformance, FindsAHoleThatIsTooLarge) {
    struct Broken : Sound {  // rounds to whole pages in the wrong direction
        IoResult discard(Range range) {
            const std::uint64_t first = range.offset / 4096 * 4096;
            const std::uint64_t end =
                std::min(kSize, (range.offset + range.length + 4095) / 4096 * 4096);
            return Sound::write_zeroes({first, end - first}, false);
        }
    };
    EXPECT_NE(check<Broken>(), "");
}

TEST(Conformance, FindsAHoleThatIsTooSmall) {
    struct Broken : Sound {  // zeroes whole pages only
        IoResult write_zeroes(Range range, bool no_unmap) {
            if (no_unmap) return Sound::write_zeroes(range, true);
            const std::uint64_t first = (range.offset + 4095) / 4096 * 4096;
            const std::uint64_t end = (range.offset + range.length) / 4096 * 4096;
            return first < end ? Sound::write_zeroes({first, end - first}, false) : IoResult{};
        }
    };
    EXPECT_NE(check<Broken>(), "");
}

TEST(Conformance, FindsABackendThatFails) {
    struct Broken : Sound {
        IoResult flush() { return std::errc::io_error; }
    };
    EXPECT_NE(check<Broken>().find("flush of 0 bytes at 0 failed with errno 5"), std::string::npos);
}

TEST(Conformance, FindsAnErrnoThatIsNone) {
    struct Broken : Sound {
        IoResult read(std::uint64_t, std::span<std::byte>) { return IoResult::from_errno(70'000); }
    };
    EXPECT_NE(check<Broken>().find("gave no errno"), std::string::npos);
}

TEST(Conformance, FindsADiskThatIsNotBlank) {
    struct Broken : Sound {
        Broken() { *at(kSize - 1) = std::byte{9}; }
    };
    EXPECT_NE(check<Broken>().find("gave 9 instead of 0"), std::string::npos);
}

TEST(Conformance, FindsAGeometryThatMakesNoDisk) {
    struct Broken : Sound {
        Broken() : Sound(kSize + 100) {}
    };
    EXPECT_NE(check<Broken>().find("geometry: size is "), std::string::npos);
}

TEST(Conformance, FindsSessionsThatShareWhatTheyMustNot) {
    struct Broken : Sound {  // once there are several: the middle falls on the start
        explicit Broken(bool is_broken) : broken(is_broken) {}
        IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
            const std::lock_guard lock(mutex);
            return Sound::write(broken && offset == kSize / 2 ? 0 : offset, from);
        }
        IoResult read(std::uint64_t offset, std::span<std::byte> into) {
            const std::lock_guard lock(mutex);
            return Sound::read(broken && offset == kSize / 2 ? 0 : offset, into);
        }
        IoResult discard(Range range) {
            const std::lock_guard lock(mutex);
            return Sound::discard(range);
        }
        IoResult write_zeroes(Range range, bool) {
            const std::lock_guard lock(mutex);
            return Sound::write_zeroes(range, false);
        }
        std::mutex mutex;
        bool broken;
    };
    int opened = 0;
    const std::string violation = check_conformance(
        {.open =
             [&] {
                 auto broken = std::make_shared<Broken>(++opened > 1);
                 return Result<std::shared_ptr<Backend>>(make_backend(std::move(broken)));
             },
         .seed = 1,
         .operations = 500,
         .threads = 2});
    EXPECT_EQ(opened, 2) << "one session alone finds nothing";
    EXPECT_NE(violation, "");
}

// ---- Backends that hold their data -------------------------------------------------------------

struct Located : Sound {
    std::byte* locate(Range range) { return at(range.offset); }
};

TEST(Conformance, PassesABackendThatLocatesItsData) {
    for (const std::uint64_t seed : {1U, 2U}) EXPECT_EQ(check<Located>(seed), "");
}

TEST(Conformance, FindsABackendThatLocatesTheWrongBytes) {
    struct Broken : Sound {
        std::byte* locate(Range range) { return at(range.offset == 0 ? 512 : range.offset); }
    };
    EXPECT_NE(check<Broken>().find(" instead of "), std::string::npos) << check<Broken>();
}

TEST(Conformance, FindsWritesThatGoToACopy) {
    struct Broken : Sound {
        std::byte* locate(Range range) {
            copy.assign(at(range.offset), at(range.offset) + range.length);
            return copy.data();
        }
        std::vector<std::byte> copy;
    };
    EXPECT_NE(check<Broken>().find(" instead of "), std::string::npos) << check<Broken>();
}

TEST(Conformance, FindsABackendThatHoldsItsDataAndLocatesNone) {
    struct Broken : Sound {
        std::byte* locate(Range) { return nullptr; }
    };
    EXPECT_NE(check<Broken>().find("locates none of it"), std::string::npos) << check<Broken>();
}

// ---- Backends that are no plain class ----------------------------------------------------------

// What is advertised and what is done need not agree when a Backend is written by hand.
class Liar final : public Backend {
public:
    explicit Liar(const Capabilities& can) : can_(can) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "liar"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return can_; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        return sound_->open_session(io);
    }

private:
    Capabilities can_;
    std::shared_ptr<Backend> sound_ = make_backend(Sound());
};

std::string check_liar(const Capabilities& can) {
    return check_conformance(
        {.open = [can] { return Result<std::shared_ptr<Backend>>(std::make_shared<Liar>(can)); },
         .seed = 1,
         .threads = 1});
}

TEST(Conformance, FindsWhatIsDoneWithoutBeingAdvertised) {
    EXPECT_EQ(check_liar({.flush = true, .discard = true, .write_zeroes = true}), "");
    EXPECT_NE(check_liar({.discard = true, .write_zeroes = true}).find("flush"), std::string::npos);
    EXPECT_NE(check_liar({.flush = true, .write_zeroes = true}).find("discard"), std::string::npos);
    EXPECT_NE(check_liar({.flush = true, .discard = true}).find("write_zeroes"), std::string::npos);
    EXPECT_NE(check_liar({.fua = true, .discard = true, .write_zeroes = true}).find("FUA"),
              std::string::npos);
    EXPECT_NE(check_liar({.flush = true, .read_only = true}), "");
}

// Answers later, and out of order: the ring's clock decides. `Twist` is what goes wrong.
enum class Twist { none, never_answers, mixes_up };

class Slow final : public Backend {
public:
    explicit Slow(Twist twist) : twist_(twist) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "slow"; }
    [[nodiscard]] Geometry geometry() const override { return sound_->geometry(); }
    [[nodiscard]] Capabilities capabilities() const override { return sound_->capabilities(); }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io& io) override {
        auto below = sound_->open_session(io);
        if (!below) return std::unexpected(below.error());
        return std::make_unique<SlowSession>(std::move(*below), io, twist_);
    }

private:
    class SlowSession final : public Session {
    public:
        SlowSession(std::unique_ptr<Session> below, Io& io, Twist twist)
            : below_(std::move(below)), twist_(twist), background_(background(io)) {}

        Task<> serve(Io& io, const Request& request) override {
            latest_ = &request;
            // The later it came the sooner it is answered.
            const int late = std::min(++in_flight_, 7);
            static_cast<void>(co_await io.sleep(std::chrono::microseconds(400 - 50 * late)));
            if (twist_ == Twist::never_answers) static_cast<void>(co_await Completion(io));
            const IoResult result =
                co_await below_->serve(io, twist_ == Twist::mixes_up ? *latest_ : request);
            --in_flight_;
            co_return result;
        }

    private:
        // Until it is cancelled, as of a session that listens to a connection.
        static Task<> background(Io& io) {
            IoResult result;
            while (result.ok()) result = co_await io.sleep(std::chrono::hours(1));
            co_return result;
        }
        std::unique_ptr<Session> below_;
        const Twist twist_;
        int in_flight_ = 0;
        const Request* latest_ = nullptr;
        Task<> background_;
    };
    const Twist twist_;
    std::shared_ptr<Backend> sound_ = make_backend(Sound());
};

std::string check_slow(Twist twist) {
    return check_conformance(
        {.open =
             [twist] { return Result<std::shared_ptr<Backend>>(std::make_shared<Slow>(twist)); },
         .seed = 1,
         .operations = 200,
         .threads = 2,
         .patience = std::chrono::milliseconds(twist == Twist::never_answers ? 50 : 30'000)});
}

TEST(Conformance, DrivesSessionsThatTakeTheirTimeOnTheRing) {
    EXPECT_EQ(check_slow(Twist::none), "");
}

TEST(Conformance, FindsASessionThatMixesUpWhatIsInFlight) {
    const std::string violation = check_slow(Twist::mixes_up);
    EXPECT_NE(violation.find(" instead of "), std::string::npos) << violation;
}

TEST(Conformance, FindsASessionThatNeverAnswers) {
    EXPECT_NE(check_slow(Twist::never_answers).find("is not done in time"), std::string::npos);
}

// ---- Backends that only pass data on -----------------------------------------------------------

// A file of memory, read and written by the ring.
class Routing final : public Backend {
public:
    explicit Routing(bool broken) : broken_(broken), file_(memfd_create("disk", MFD_CLOEXEC)) {
        if (ftruncate(file_.get(), kSize) != 0) throw std::runtime_error("memfd");
    }
    [[nodiscard]] std::string_view name() const noexcept override { return "routing"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return {}; }
    [[nodiscard]] DataAccess data_access() const noexcept override { return DataAccess::routes; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<RoutingSession>(file_.get(), broken_);
    }

private:
    class RoutingSession final : public Session {
    public:
        RoutingSession(int file, bool broken) : file_(file), broken_(broken) {}
        Task<> serve(Io& io, const Request& request) override {
            if (request.op != Op::read && request.op != Op::write) {
                co_return std::errc::operation_not_supported;
            }
            // Broken: the second half of a registered buffer begins at its start again.
            const auto half = static_cast<std::uint32_t>(request.length / 2);
            const Buffer whole = request.buffer;
            const Buffer first = whole.part(0, half);
            const Buffer second =
                broken_ && !whole.is_memory()
                    ? Buffer::registered(whole.index(), static_cast<std::uint32_t>(whole.address()),
                                         half)
                    : whole.part(half, half);
            const IoResult one = co_await move(io, request.op, first, request.offset);
            if (!one.ok()) co_return one;
            const IoResult two = co_await move(io, request.op, second, request.offset + half);
            if (!two.ok()) co_return two;
            co_return IoResult::bytes(one.count() + two.count());
        }

    private:
        Task<> move(Io& io, Op op, Buffer buffer, std::uint64_t offset) const {
            if (op == Op::read) co_return co_await io.read(file_, buffer, offset);
            co_return co_await io.write(file_, buffer, offset);
        }
        int file_;
        bool broken_;
    };
    bool broken_;
    Fd file_;
};

std::string check_routing(bool broken) {
    return check_conformance(
        {.open =
             [=] { return Result<std::shared_ptr<Backend>>(std::make_shared<Routing>(broken)); },
         .operations = 500});
}

TEST(Conformance, PassesABackendThatPassesDataOn) { EXPECT_EQ(check_routing(false), ""); }

TEST(Conformance, FindsABackendThatLosesItsPlaceInARegisteredBuffer) {
    const std::string violation = check_routing(true);
    EXPECT_NE(violation.find(" instead of "), std::string::npos) << violation;
}

TEST(Conformance, SaysWhyABackendDidNotOpen) {
    const std::string violation = check_conformance({.open = [] {
        return Result<std::shared_ptr<Backend>>(
            std::unexpected(Error{.operation = "open it", .code = ENOENT}));
    }});
    EXPECT_NE(violation.find("it did not open: open it: (ENOENT"), std::string::npos) << violation;
}

}  // namespace
}  // namespace ashlar::test
