// A server for tests, on a thread, that does what a test says with each connection. It greets with
// the protocol's oldest handshake, which is one message, and so answers simply.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
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

    explicit Peer(int socket) : socket_(socket) {}

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
    // False when nobody hears it.
    bool say(const Stream& stream) {
        std::size_t done = 0;
        while (done < stream.bytes.size()) {
            const ssize_t count =
                send(socket_, stream.bytes.data() + done, stream.bytes.size() - done, MSG_NOSIGNAL);
            if (count <= 0) return false;
            done += static_cast<std::size_t>(count);
        }
        return true;
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

private:
    bool take(std::span<std::byte> into) const {
        return into.empty() || recv(socket_, into.data(), into.size(), MSG_WAITALL) ==
                                   static_cast<ssize_t>(into.size());
    }
    int socket_;
};

// One connection at a time.
class TestServer {
public:
    // index: of the connection, from 0. It ends when this returns.
    using Serve = std::function<void(Peer& peer, unsigned index)>;

    TestServer(std::uint64_t size, Serve serve, bool greets = true)
        : serve_(std::move(serve)), size_(size), greets_(greets) {
        std::string name = (std::filesystem::temp_directory_path() / "nbd-XXXXXX").string();
        directory_ = mkdtemp(name.data());
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
        listening_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
            listen(listening_.get(), 16) != 0) {
            std::abort();
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
        std::filesystem::remove_all(directory_);
    }

    [[nodiscard]] std::string uri() const { return "nbd+unix:///?socket=" + socket(); }
    [[nodiscard]] unsigned connections() const { return connections_; }
    // Of the export, to connections that come.
    void set_size(std::uint64_t size) { size_ = size; }
    // Whether those that come are greeted; else they hear nothing.
    void set_greets(bool greets) { greets_ = greets; }

private:
    [[nodiscard]] std::string socket() const { return directory_ + "/socket"; }

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
            } else if (peer.say(greeting())) {
                serve_(peer, index);
            }
            const std::lock_guard lock(mutex_);
            connection_.reset();
        }
    }
    [[nodiscard]] Stream greeting() const {
        constexpr std::uint64_t name = 0x4e42444d41474943;  // "NBDMAGIC"
        constexpr std::uint64_t oldest = 0x00420281861253;
        // Flush, FUA, trim, write zeroes.
        constexpr std::uint32_t flags = 1U | 1U << 2 | 1U << 3 | 1U << 5 | 1U << 6;
        return Stream().number(name, 8).number(oldest, 8).number(size_, 8).number(flags, 4).data(
            std::vector<std::byte>(124));
    }

    const Serve serve_;
    std::atomic<std::uint64_t> size_;
    std::atomic<bool> greets_;
    std::string directory_;
    Fd listening_;
    std::mutex mutex_;
    Fd connection_;
    bool ending_ = false;
    std::atomic<unsigned> connections_ = 0;
    std::thread thread_;
};

}  // namespace ashlar::nbd
