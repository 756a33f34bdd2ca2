// A server for tests, on a thread, that does what a test says with each connection. It greets with
// the protocol's oldest handshake, which is one message, and so answers simply; or the test
// negotiates by itself.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/nbd/protocol.h"
#include "backends/nbd/test_wire.h"
#include "base/fd.h"

namespace ashlar::nbd {

// The server's end of one connection.
class Peer {
public:
    struct Asked {
        RequestHeader header{};
        std::vector<std::byte> data{};  // of a write
    };

    // What becomes of a message before it leaves, and then.
    enum class Then : std::uint8_t { go_on, close, repeat };
    using Tamper = std::function<Then(Stream& message)>;

    explicit Peer(int socket) : socket_(socket) {}

    void set_tamper(Tamper tamper) { tamper_ = std::move(tamper); }
    // Whether request() need not wait for its beginning.
    bool has_request() const {
        std::byte one{};
        return recv(socket_, &one, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
    }

    // Waits for the next; empty when the connection has ended.
    std::optional<Asked> request() {
        RequestBytes bytes{};
        if (!take(bytes)) return std::nullopt;
        const auto field = [&](std::size_t at, std::size_t size) {
            std::uint64_t value = 0;
            for (std::size_t i = 0; i < size; ++i) {
                value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i]);
            }
            return value;
        };
        Asked asked{.header = {.flags = static_cast<std::uint16_t>(field(4, 2)),
                               .command = static_cast<Command>(field(6, 2)),
                               .cookie = field(8, 8),
                               .offset = field(16, 8),
                               .length = static_cast<std::uint32_t>(field(24, 4))}};
        if (asked.header.command == Command::write) {
            asked.data.resize(asked.header.length);
            if (!take(asked.data)) return std::nullopt;
        }
        return asked;
    }
    // False when nobody hears it, or that was all.
    bool say(const Stream& stream) {
        if (!tamper_) return send_all(stream);
        Stream tampered = stream;
        const Then then = tamper_(tampered);
        bool heard = send_all(tampered);
        while (heard && then == Then::repeat) heard = send_all(tampered);
        return heard && then == Then::go_on;
    }
    // As a server whose disk is full of 0x5a.
    bool answer(const Asked& asked) {
        Stream stream;
        stream.simple(asked.header.cookie);
        if (asked.header.command == Command::read) {
            stream.data(std::vector<std::byte>(asked.header.length, std::byte{0x5a}));
        }
        return say(stream);
    }
    // Whatever comes, until the connection ends.
    void answer_all() {
        while (auto asked = request()) {
            if (asked->header.command == Command::disconnect || !answer(*asked)) return;
        }
    }

    // Waits for so many bytes. False: the connection has ended before.
    bool take(std::span<std::byte> into) const {
        return into.empty() || recv(socket_, into.data(), into.size(), MSG_WAITALL) ==
                                   static_cast<ssize_t>(into.size());
    }

private:
    bool send_all(const Stream& stream) const {
        std::size_t done = 0;
        while (done < stream.bytes.size()) {
            const ssize_t count =
                send(socket_, stream.bytes.data() + done, stream.bytes.size() - done, MSG_NOSIGNAL);
            if (count <= 0) return false;
            done += static_cast<std::size_t>(count);
        }
        return true;
    }

    int socket_;
    Tamper tamper_;
};

// Flush, FUA, trim, write zeroes.
inline constexpr std::uint32_t kTransmissionFlags = 1U | 1U << 2 | 1U << 3 | 1U << 5 | 1U << 6;

inline Stream oldest_greeting(std::uint64_t size) {
    constexpr std::uint64_t name = 0x4e42444d41474943;  // "NBDMAGIC"
    constexpr std::uint64_t oldest = 0x00420281861253;
    return Stream()
        .number(name, 8)
        .number(oldest, 8)
        .number(size, 8)
        .number(kTransmissionFlags, 4)
        .data(std::vector<std::byte>(124));
}

struct Terms {
    std::uint64_t size = 0;
    bool structured = false;             // that reads are answered in chunks is granted
    std::uint32_t block_max = 0;         // 0: the server says nothing of blocks
    std::vector<int>* wanted = nullptr;  // gets the options that are asked for, in order
};

// The handshake by options. False: the connection is to end.
inline bool negotiate(Peer& peer, const Terms& terms) {
    constexpr std::uint64_t name = 0x4e42444d41474943;
    constexpr std::uint64_t option_magic = 0x49484156454f5054;  // "IHAVEOPT"
    constexpr std::uint32_t fixed_newstyle = 1;
    std::array<std::byte, 16> header{};
    if (!peer.say(Stream().number(name, 8).number(option_magic, 8).number(fixed_newstyle, 2)) ||
        !peer.take(std::span(header).first<4>())) {
        return false;
    }
    while (peer.take(header)) {
        const auto last_byte = [&](std::size_t at) { return std::to_integer<int>(header[at]); };
        std::vector<std::byte> data(std::size_t(last_byte(14) << 8 | last_byte(15)));
        if (!peer.take(data)) return false;
        const int option = last_byte(11);
        if (terms.wanted != nullptr) terms.wanted->push_back(option);
        const auto reply = [&](std::uint32_t type, const Stream& content = {}) {
            return peer.say(Stream()
                                .number(0x3e889045565a9, 8)
                                .number(static_cast<std::uint64_t>(option), 4)
                                .number(type, 4)
                                .number(content.bytes.size(), 4)
                                .data(content.bytes));
        };
        constexpr std::uint32_t ack = 1;
        constexpr std::uint32_t info = 3;
        constexpr std::uint32_t unsupported = 0x80000001;
        const bool go = option == 7;
        const bool grants = go || (option == 8 && terms.structured);
        if (option == 1) return false;  // the export's name, to which there is no other answer
        if (go &&
            !reply(info,
                   Stream().number(0, 2).number(terms.size, 8).number(kTransmissionFlags, 2))) {
            return false;
        }
        if (go && terms.block_max != 0 &&
            !reply(info,
                   Stream().number(3, 2).number(1, 4).number(4096, 4).number(terms.block_max, 4))) {
            return false;
        }
        if (!reply(grants ? ack : unsupported)) return false;
        if (go) return true;
    }
    return false;
}

// One connection at a time.
class TestServer {
public:
    // index: of the connection, from 0. It ends when this returns.
    using Serve = std::function<void(Peer& peer, unsigned index)>;

    enum class Family : std::uint8_t { local, tcp };

    // negotiates: serve does, else the oldest handshake was there before it.
    TestServer(std::uint64_t size, Serve serve, bool negotiates = false,
               Family family = Family::local)
        : serve_(std::move(serve)), negotiates_(negotiates), size_(size) {
        if (family == Family::local) {
            listen_locally();
        } else {
            listen_by_tcp();
        }
        thread_ = std::thread([this] { run(); });
    }
    TestServer(const TestServer&) = delete;
    TestServer& operator=(const TestServer&) = delete;
    ~TestServer() {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
            shutdown(listening_.get(), SHUT_RDWR);
            if (connection_.valid()) shutdown(connection_.get(), SHUT_RDWR);
        }
        thread_.join();
        if (!directory_.empty()) std::filesystem::remove_all(directory_);
    }

    [[nodiscard]] const std::string& uri() const { return uri_; }
    [[nodiscard]] unsigned connections() const { return connections_; }
    // Of the export, to connections that come.
    void set_size(std::uint64_t size) { size_ = size; }
    // Whether those that come are greeted; else they hear nothing.
    void set_greets(bool greets) { greets_ = greets; }

private:
    [[nodiscard]] std::string socket() const { return directory_ + "/socket"; }

    void listen_locally() {
        std::string name = (std::filesystem::temp_directory_path() / "nbd-XXXXXX").string();
        directory_ = mkdtemp(name.data());
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
        listening_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        listen_at(reinterpret_cast<sockaddr*>(&address), sizeof(address));
        uri_ = "nbd+unix:///?socket=" + socket();
    }
    void listen_by_tcp() {
        listening_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof(address);
        listen_at(reinterpret_cast<sockaddr*>(&address), length);
        getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&address), &length);
        uri_ = "nbd://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
        // Of what it accepts, too: an answer leaves in many small parts.
        const int on = 1;
        setsockopt(listening_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    void listen_at(const sockaddr* address, socklen_t length) {
        if (bind(listening_.get(), address, length) != 0 || listen(listening_.get(), 16) != 0) {
            std::abort();
        }
    }

    void run() {
        for (;;) {
            Fd accepted(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            {
                const std::lock_guard lock(mutex_);
                if (ending_ || !accepted.valid()) return;
                connection_ = std::move(accepted);
            }
            const unsigned index = connections_++;
            Peer peer(connection_.get());
            if (!greets_) {
                while (peer.request()) {
                }
            } else if (negotiates_ || peer.say(oldest_greeting(size_))) {
                serve_(peer, index);
            }
            const std::lock_guard lock(mutex_);
            connection_.reset();
        }
    }

    const Serve serve_;
    const bool negotiates_;
    std::atomic<std::uint64_t> size_;
    std::atomic<bool> greets_ = true;
    std::string directory_;  // with the socket in it, if that is local
    std::string uri_;
    Fd listening_;
    std::mutex mutex_;
    Fd connection_;
    bool ending_ = false;
    std::atomic<unsigned> connections_ = 0;
    std::thread thread_;
};

}  // namespace ashlar::nbd
