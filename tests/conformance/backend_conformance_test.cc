// That the suite finds faults, and passes what is sound. Each fault is one line of a backend.
#include "conformance/backend_conformance.h"

#include <algorithm>
#include <cerrno>
#include <coroutine>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include <gtest/gtest.h>

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

// ---- Backends that are no plain class ----------------------------------------------------------

// What is advertised and what is done need not agree when a Backend is written by hand.
class Liar final : public Backend {
public:
    explicit Liar(const Capabilities& can) : can_(can) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "liar"; }
    [[nodiscard]] Geometry geometry() const override { return {.size = kSize}; }
    [[nodiscard]] Capabilities capabilities() const override { return can_; }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session() override {
        return sound_->open_session();
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

// Serves from a list of coroutines that only a pump resumes.
thread_local std::deque<std::coroutine_handle<>> waiting;

void pump() {
    if (waiting.empty()) throw std::logic_error("nothing waits");
    const auto next = waiting.front();
    waiting.pop_front();
    next.resume();
}

struct Turn {
    static bool await_ready() noexcept { return false; }
    static void await_suspend(std::coroutine_handle<> handle) { waiting.push_back(handle); }
    static void await_resume() noexcept {}
};

class Slow final : public Backend {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "slow"; }
    [[nodiscard]] Geometry geometry() const override { return sound_->geometry(); }
    [[nodiscard]] Capabilities capabilities() const override { return sound_->capabilities(); }
    [[nodiscard]] Result<std::unique_ptr<Session>> open_session() override {
        auto below = sound_->open_session();
        if (!below) return std::unexpected(below.error());
        return std::make_unique<SlowSession>(std::move(*below));
    }

private:
    class SlowSession final : public Session {
    public:
        explicit SlowSession(std::unique_ptr<Session> below) : below_(std::move(below)) {}
        Task<> serve(Io& io, const Request& request) override {
            co_await Turn{};
            const IoResult result = co_await below_->serve(io, request);
            co_await Turn{};
            co_return result;
        }

    private:
        std::unique_ptr<Session> below_;
    };
    std::shared_ptr<Backend> sound_ = make_backend(Sound());
};

Conformance slow() {
    return {.open = [] { return Result<std::shared_ptr<Backend>>(std::make_shared<Slow>()); },
            .pump = pump,
            .operations = 300};
}

TEST(Conformance, DrivesAsynchronousBackendsByAPump) { EXPECT_EQ(check_conformance(slow()), ""); }

TEST(Conformance, FindsASessionThatIsNotDoneWithoutAPump) {
    Conformance conformance = slow();
    conformance.pump = nullptr;
    EXPECT_NE(check_conformance(conformance).find("there is no pump"), std::string::npos);
    waiting.clear();
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
