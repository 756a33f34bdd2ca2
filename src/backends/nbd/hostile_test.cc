// Servers that lie, in the handshake and after it. What a seed makes a server do is told once: the
// client ends each request with what the server meant for it or with an errno, in time, and writes
// nowhere else.
//
// ASHLAR_NBD_SEEDS=N tries so many seeds, ASHLAR_NBD_SEED=N that one alone.
#include <ashlar/nbd.h>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "backends/nbd/test_server.h"
#include "support/registered_memory.h"
#include "support/ring_runner.h"

namespace ashlar::nbd {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;
using Then = Peer::Then;

constexpr std::uint64_t kDisk = 256 << 10;
constexpr std::size_t kMost = 64 << 10;  // of one request's data
constexpr std::size_t kMargin = 4096;    // before it; as much is behind it
constexpr std::size_t kSlot = kMost + 2 * kMargin;
constexpr std::size_t kSlots = 12;  // requests at a time
constexpr std::byte kCanary{0xc5};
constexpr auto kDeadline = 20s;  // of a seed

// What the disk holds, always: only this is written to it.
std::span<const std::byte> content(std::uint64_t offset, std::uint64_t length) {
    static const Bytes disk = [] {
        Bytes bytes(kDisk);
        for (std::size_t i = 0; i < kDisk; ++i) {
            if (i / 2048 % 3 != 0) bytes[i] = static_cast<std::byte>(i * 2'654'435'761U >> 13 | 1);
        }
        return bytes;
    }();
    return std::span(disk).subspan(offset, length);
}

bool same(std::span<const std::byte> one, std::span<const std::byte> other) {
    return one.size() == other.size() &&
           (one.empty() || std::memcmp(one.data(), other.data(), one.size()) == 0);
}

std::span<const std::byte> canary(std::size_t length) {
    static const Bytes bytes(kSlot, kCanary);
    return std::span(bytes).first(length);
}

class Random {
public:
    explicit Random(std::uint64_t seed, unsigned connection = 0) {
        std::seed_seq seeds{seed, seed >> 32, std::uint64_t{connection}};
        engine_.seed(seeds);
    }
    std::uint64_t any() { return engine_(); }
    std::uint64_t below(std::uint64_t limit) { return engine_() % limit; }
    bool one_in(std::uint64_t count) { return below(count) == 0; }
    Bytes bytes(std::size_t length) {
        Bytes made(length);
        for (std::byte& one : made) one = static_cast<std::byte>(any());
        return made;
    }
    std::mt19937_64& engine() { return engine_; }

private:
    std::mt19937_64 engine_;
};

void overwrite(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t size) {
    for (; size > 0 && at < bytes.size(); ++at) {
        bytes[at] = static_cast<std::byte>(value >> (8 * --size));
    }
}

// ---- The server --------------------------------------------------------------------------------

// What becomes of one message of the handshake.
Peer::Tamper tamper_with_handshake(Random random) {
    const auto which = random.below(4);
    return [random, which, turn = 0U](Stream& message) mutable {
        if (turn++ != which) return Then::go_on;
        Bytes& bytes = message.bytes;
        const Then then = random.one_in(4) ? Then::go_on : Then::close;
        constexpr std::uint64_t lengths[] = {UINT32_MAX, 1U << 31, 1U << 26, 4097, 1};
        constexpr std::uint64_t sizes[] = {0,          1,         511,       1ULL << 63,
                                           UINT64_MAX, INT64_MAX, 1ULL << 62};
        switch (random.below(10)) {
            case 0: overwrite(bytes, 8 * random.below(2), random.any(), 8); return Then::go_on;
            case 1:
                overwrite(bytes, random.below(bytes.size()), random.any(), 1 + random.below(8));
                return Then::go_on;
            case 2: bytes.resize(random.below(bytes.size())); return then;
            case 3: bytes = random.bytes(1 + random.below(4096)); return then;
            case 4: overwrite(bytes, 16, lengths[random.below(5)], 4); return then;
            case 5:  // with all the bytes that it announces
                overwrite(bytes, 16, UINT32_MAX, 4);
                bytes.resize(64 << 10);
                return Then::repeat;
            case 6: return Then::repeat;
            case 7:
                overwrite(bytes, bytes.size() == 152 ? 16 : 22, sizes[random.below(7)], 8);
                return Then::go_on;
            case 8: overwrite(bytes, 12, random.any(), 4); return Then::go_on;
            default: return Then::go_on;
        }
    };
}

class Hostile {
public:
    // lies: of its replies, one in so many; 0: none.
    Hostile(Peer& peer, Random random, bool structured, std::uint64_t lies)
        : peer_(peer), random_(std::move(random)), structured_(structured), lies_(lies) {}

    void serve() {
        for (;;) {
            if (waiting_.empty() || (waiting_.size() < kSlots && peer_.has_request())) {
                auto asked = peer_.request();
                if (!asked || asked->header.command == Command::disconnect) return;
                if (asked->header.command == Command::write) check(*asked);
                waiting_.push_back(std::move(*asked));
                continue;
            }
            const auto next = waiting_.begin() + std::ptrdiff_t(random_.below(waiting_.size()));
            const RequestHeader header = next->header;
            waiting_.erase(next);
            const bool lies = lies_ != 0 && random_.one_in(lies_);
            Then then = lies && random_.one_in(3) ? Then::close : Then::go_on;
            const Stream stream = lies ? lie(header, then) : correct(header);
            bool heard = peer_.say(stream);
            while (heard && then == Then::repeat) heard = peer_.say(stream);
            if (!heard || then == Then::close) return;
        }
    }

private:
    static void check(const Peer::Asked& asked) {
        EXPECT_TRUE(same(asked.data, content(asked.header.offset, asked.data.size())))
            << "written: what nobody wrote";
    }

    Stream correct(const RequestHeader& asked) {
        constexpr std::uint32_t errors[] = {1, 5, 12, 22, 28, 75, 95, 0xdead'beef};
        const bool is_read = asked.command == Command::read;
        const std::uint32_t error = random_.one_in(8) ? errors[random_.below(8)] : 0;
        Stream stream;
        if (!structured_ || (random_.one_in(2) && (!is_read || error != 0))) {
            stream.simple(asked.cookie, error);
            if (is_read && error == 0) stream.data(content(asked.offset, asked.length));
            return stream;
        }
        if (is_read) {
            auto pieces = cut(asked);
            if (error != 0) pieces.resize(random_.below(pieces.size()));
            for (const Stream& piece : pieces) stream.data(piece.bytes);
        }
        return error == 0 ? stream.none(asked.cookie)
                          : stream.error(asked.cookie, error, true, "it went wrong");
    }
    std::vector<Stream> cut(const RequestHeader& asked) {
        std::set<std::uint64_t> cuts{asked.offset + asked.length};
        for (auto i = random_.below(6); i > 0; --i) {
            cuts.insert(asked.offset + 1 + random_.below(asked.length));
        }
        std::vector<Stream> pieces;
        std::uint64_t begin = asked.offset;
        for (const std::uint64_t end : cuts) {
            const auto data = content(begin, end - begin);
            Stream& piece = pieces.emplace_back();
            if (same(data, Bytes(data.size()))) {
                piece.hole(asked.cookie, begin, static_cast<std::uint32_t>(data.size()), false);
            } else {
                piece.data_chunk(asked.cookie, begin, data, false);
            }
            begin = end;
        }
        std::ranges::shuffle(pieces, random_.engine());
        return pieces;
    }

    // What a client must end the connection for, or is closed by this end.
    Stream lie(const RequestHeader& asked, Then& then) {
        Stream stream = correct(asked);
        Bytes& bytes = stream.bytes;
        const std::uint64_t cookie = asked.cookie;
        const std::uint32_t length = std::max(asked.length, 2U);
        const auto some = random_.bytes(1 + random_.below(512));
        switch (random_.below(20)) {
            case 0: overwrite(bytes, 0, random_.any(), 4); return stream;
            case 1: overwrite(bytes, 8, random_.any(), 8); return stream;
            case 2: return stream.data(correct(asked).bytes);  // twice
            case 3:
            case 4:  // cut, in the header or anywhere
                then = Then::close;
                bytes.resize(random_.below(random_.one_in(2) ? 16 : bytes.size()));
                return stream;
            case 5: then = Then::close; return {};
            case 6: return Stream().data(some).data(random_.bytes(64));
            case 7: then = Then::repeat; return Stream().data(random_.bytes(4096));
            case 8:  // another's, and its own is never answered
                then = Then::close;
                if (!structured_ || waiting_.empty()) return stream;
                overwrite(bytes, 8, waiting_[random_.below(waiting_.size())].header.cookie, 8);
                return stream;
            case 9: return Stream().data_chunk(cookie, asked.offset, Bytes(length + 1), true);
            case 10: {  // overlapping
                const auto from = static_cast<std::uint32_t>(random_.below(some.size()));
                return Stream()
                    .data_chunk(cookie, asked.offset, some, false)
                    .hole(cookie, asked.offset + from, length - from, true);
            }
            case 11: return outside(asked, some);
            case 12: return Stream().hole(cookie, asked.offset, length - 1, true);  // incomplete
            case 13: return Stream().hole(cookie, asked.offset, UINT32_MAX, random_.one_in(2));
            case 14:  // a message that is longer than its chunk
                return Stream()
                    .chunk(cookie, 0x8001, 16, true)
                    .number(5, 4)
                    .number(11, 2)
                    .number(0, 8)
                    .number(0, 2);
            case 15: return Stream().chunk(cookie, 0x8001, 1 << 20, true).data(Bytes(1 << 20));
            case 16: return Stream().error(cookie, 0, true, "nothing at all");
            case 17: {  // of a kind, or of a length, that is none
                const auto type = static_cast<int>(random_.below(8));
                const auto size = static_cast<std::uint32_t>(some.size());
                return Stream().chunk(cookie, type, size, random_.one_in(2)).data(some);
            }
            case 18:
                then = Then::repeat;
                return random_.one_in(2) ? Stream().error(cookie, 5, false)
                                         : Stream().none(cookie, false);
            default:  // what answers a read, but not this one
                if (asked.command == Command::read && structured_) {
                    return Stream().simple(cookie).data(Bytes(length));
                }
                return Stream().data_chunk(cookie, asked.offset, Bytes(length), true);
        }
    }
    Stream outside(const RequestHeader& asked, const Bytes& some) {
        const std::uint64_t end = asked.offset + asked.length;
        const std::uint64_t places[] = {asked.offset - 1, end, end - some.size() + 1, UINT64_MAX,
                                        random_.any()};
        const std::uint64_t place = places[random_.below(5)];
        if (random_.one_in(2)) return Stream().data_chunk(asked.cookie, place, some, true);
        return Stream().hole(asked.cookie, place, static_cast<std::uint32_t>(some.size()), true);
    }

    Peer& peer_;
    Random random_;
    const bool structured_;
    const std::uint64_t lies_;
    std::deque<Peer::Asked> waiting_{};
};

struct Plan {
    std::uint64_t seed = 0;
    // 0: the oldest; 1: by options; else with structured replies too, for which nobody asks locally
    unsigned greeting = 0;
    [[nodiscard]] bool structured() const { return greeting > 1; }
    unsigned honest_from = 0;  // connections: those before lie
    bool tampers_first = false;
};
void serve(const Plan& plan, Peer& peer, unsigned index) {
    Random random(plan.seed, index + 1);
    const bool lies = index < plan.honest_from;
    const std::uint64_t often = lies ? std::uint64_t{1} << random.below(6) : 0;
    if (index == 0 ? plan.tampers_first : lies && random.one_in(4)) {
        peer.set_tamper(tamper_with_handshake(Random(random.any())));
    }
    const bool agreed = plan.greeting == 0
                            ? peer.say(oldest_greeting(kDisk))
                            : negotiate(peer, {.size = kDisk, .structured = plan.structured()});
    peer.set_tamper(nullptr);
    if (agreed) Hostile(peer, Random(random.any()), plan.structured(), often).serve();
}

// ---- The client --------------------------------------------------------------------------------

// What child and parent know of each other.
struct Progress {
    std::atomic<std::uint64_t> seed = 0;
    std::atomic<std::uint64_t> good = 0;  // reads
    std::atomic<std::uint64_t> bad = 0;
};

class HostileTest : public testing::Test {
protected:
    // In a child, so that a seed that crashes or hangs has a name.
    template <typename Run>
    void for_each_seed(Run run) {
        const auto number = [](const char* name, std::uint64_t otherwise) {
            const char* const text = std::getenv(name);
            return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
        };
        const std::uint64_t first = number("ASHLAR_NBD_SEED", 0);
        const bool alone = std::getenv("ASHLAR_NBD_SEED") != nullptr;
        const std::uint64_t count = alone ? 1 : number("ASHLAR_NBD_SEEDS", 300);
        static_cast<void>(std::fflush(nullptr));
        const pid_t child = fork();
        if (child == 0) {
            // As on a queue's thread: a registered buffer goes as write(2) does, with SIGPIPE.
            std::signal(SIGPIPE, SIG_IGN);
            for (std::uint64_t seed = first; seed < first + count && !HasFailure(); ++seed) {
                progress_->seed = seed;
                // On a thread that has had no error, of which libnbd would tell again.
                std::thread([&] { run(seed); }).join();
            }
            std::exit(HasFailure() ? 1 : 0);
        }
        int status = 0;
        std::uint64_t seen = first;
        auto since = Clock::now();
        bool in_time = true;
        while (waitpid(child, &status, WNOHANG) == 0) {
            if (seen != progress_->seed) since = Clock::now();
            seen = progress_->seed;
            in_time = in_time && Clock::now() - since < kDeadline;
            if (!in_time) kill(child, SIGKILL);
            std::this_thread::sleep_for(5ms);
        }
        EXPECT_EQ(status, 0) << (in_time ? "it went wrong" : "no end in time")
                             << "; again with ASHLAR_NBD_SEED=" << progress_->seed;
        std::printf("%lu reads were good, %lu ended with an errno\n", progress_->good.load(),
                    progress_->bad.load());
        if (count < 100) return;
        EXPECT_GT(progress_->good, count / 10);
        EXPECT_GT(progress_->bad, count / 10);
    }

    struct Client {
        Random random;
        Io& io;
        Session& session;
        std::span<std::byte> memory;
        const test::RegisteredMemory* registered = nullptr;  // what that memory is, or null
        bool reconnects = false;
        bool cancelled = false;
    };

    // Requests that wait at the same time.
    void ask(Client& client, test::RingRunner& ring, std::size_t count) {
        Random& random = client.random;
        std::vector<Request> requests(count);
        std::vector<Task<>> tasks;
        for (std::size_t i = 0; i < count; ++i) {
            Request& request = requests[i];
            constexpr Op ops[] = {Op::read,  Op::read,    Op::read,         Op::read,
                                  Op::write, Op::discard, Op::write_zeroes, Op::flush};
            request.op = ops[random.below(8)];
            const auto slot = client.memory.subspan(i * kSlot, kSlot);
            std::ranges::copy(canary(kSlot), slot.begin());
            if (request.op == Op::flush) continue;
            request.length = 512 * (1 + random.below(random.one_in(4) ? kMost / 512 : 8));
            request.offset = 512 * random.below((kDisk - request.length) / 512 + 1);
            if (request.op != Op::read && request.op != Op::write) continue;
            const auto length = static_cast<std::uint32_t>(request.length);
            const auto at = static_cast<std::uint32_t>(i * kSlot + kMargin);
            request.buffer = client.registered ? client.registered->buffer(at, length)
                                               : Buffer::memory(client.memory.data() + at, length);
            if (request.op == Op::write) {
                std::memcpy(slot.data() + kMargin, content(request.offset, length).data(), length);
            }
        }
        for (Request& request : requests) {
            tasks.push_back(client.session.serve(client.io, request));
        }
        if (random.one_in(16)) {
            client.cancelled = true;
            client.session.cancel_requests();
        }
        for (std::size_t i = 0; i < count; ++i) {
            const IoResult result = ring.run(std::move(tasks[i]));
            check(client, requests[i], client.memory.subspan(i * kSlot, kSlot), result.error());
        }
    }
    void meet(std::uint64_t seed, bool tampers) {
        const Plan plan{.seed = seed,
                        .greeting = static_cast<unsigned>(seed % 4),
                        .honest_from = tampers ? 1 : static_cast<unsigned>(1 + seed / 4 % 2),
                        .tampers_first = tampers};
        const bool reconnects = !tampers && seed / 8 % 2 != 0;
        using Family = TestServer::Family;
        TestServer server(
            kDisk, [&](Peer& peer, unsigned index) { serve(plan, peer, index); }, true,
            plan.structured() ? Family::tcp : Family::local);
        const auto begun = Clock::now();
        const auto opened = open_nbd({.uri = server.uri(),
                                      .reconnect = reconnects ? 15s : 0ms,
                                      .timeout = tampers ? 200ms : 1s});
        EXPECT_LT(Clock::now() - begun, 5s);
        if (opened) {
            const Geometry geometry = (*opened)->geometry();
            EXPECT_TRUE(geometry.size > 0 && geometry.size <= INT64_MAX);
            return use(**opened, plan, reconnects);
        }
        EXPECT_TRUE(tampers && opened.error().code != 0 && !opened.error().detail.empty())
            << opened.error().message();
    }
    // A whole session.
    void use(Backend& disk, const Plan& plan, bool reconnects) {
        Random random(plan.seed);
        test::RingRunner ring;
        std::optional<test::RegisteredMemory> registered;
        if (random.one_in(3)) registered.emplace(ring, kSlots * kSlot);
        Bytes memory(kSlots * kSlot);
        auto session = disk.open_session(ring.io());
        ASSERT_TRUE(session) << session.error().message();
        Client client{.random = random,
                      .io = ring.io(),
                      .session = **session,
                      .memory = registered ? registered->bytes() : std::span(memory),
                      .registered = registered ? &*registered : nullptr,
                      .reconnects = reconnects};
        for (auto rounds = 1 + random.below(3); rounds > 0; --rounds) {
            ask(client, ring, 1 + client.random.below(kSlots));
        }
        ring.cancel();
        ring.run_until([&] { return ring.scope().idle(); });
        (*session)->close();
    }
    void check(const Client& client, const Request& request, std::span<const std::byte> slot,
               int error) {
        static const std::set<int> told = {0,      EPERM,  EIO,       ENOMEM,
                                           EINVAL, ENOSPC, EOVERFLOW, EOPNOTSUPP};
        static const std::set<int> ends = {ECONNRESET, EPROTO, ETIMEDOUT, ESHUTDOWN, EROFS};
        const bool known = told.contains(error) || (ends.contains(error) && !client.reconnects) ||
                           (error == ECANCELED && client.cancelled);
        EXPECT_TRUE(known) << name(request.op) << " ended with " << error;
        if (request.buffer.length() == 0) return;
        const std::size_t end = kMargin + request.length;
        EXPECT_TRUE(same(slot.first(kMargin), canary(kMargin))) << "written before the buffer";
        EXPECT_TRUE(same(slot.subspan(end), canary(kSlot - end))) << "written behind it";
        if (request.op == Op::read) ++(error == 0 ? progress_->good : progress_->bad);
        if (request.op == Op::read && error != 0) return;
        EXPECT_TRUE(
            same(slot.subspan(kMargin, request.length), content(request.offset, request.length)))
            << "not what the server meant";
    }

    const Mapping shared_{
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
        sizeof(Progress)};
    Progress* const progress_ = new (shared_.data()) Progress;
};

TEST_F(HostileTest, Replies) {
    for_each_seed([this](std::uint64_t seed) { meet(seed, false); });
}

TEST_F(HostileTest, Handshakes) {
    for_each_seed([this](std::uint64_t seed) { meet(seed, true); });
}

}  // namespace
}  // namespace ashlar::nbd
