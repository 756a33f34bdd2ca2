// A disk behind a client library that has a thread of its own and calls back from it: each request
// waits for a Completion, which any thread may complete.
//
//     callback MIB
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <ashlar/ashlar.h>

using namespace ashlar;

// The library: make-believe, but its calls are like those of many.
class Client {
public:
    // Copies size bytes, then calls back on the client's thread. error: an errno, 0 for none.
    void copy(std::byte* to, const std::byte* from, std::size_t size,
              const std::function<void(int error)>& callback) {
        const std::lock_guard lock(mutex_);
        calls_.emplace_back([=] {
            std::memcpy(to, from, size);
            callback(0);
        });
        wanted_.notify_one();
    }

private:
    // Once it is to stop, answers what is left and ends.
    void run(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        while (wanted_.wait(lock, stop, [&] { return !calls_.empty(); })) {
            const auto call = std::move(calls_.front());
            calls_.pop_front();
            lock.unlock();
            call();
            lock.lock();
        }
    }

    std::mutex mutex_;  // guards calls_
    std::condition_variable_any wanted_;
    std::deque<std::function<void()>> calls_;
    std::jthread thread_{[this](const std::stop_token& stop) { run(stop); }};
};

class ClientSession final : public Session {
public:
    explicit ClientSession(std::vector<std::byte>& store) : store_(store) {}

    Task<> serve(Io& io, const Request& request) override {
        std::byte* const place = &store_[request.offset];
        std::byte* const buffer = request.buffer.data();
        Completion done(io);
        const auto answered = [&done](int error) {
            done.complete(error == 0 ? IoResult() : IoResult::from_errno(error));
        };
        switch (request.op) {
            case Op::read: client_->copy(buffer, place, request.length, answered); break;
            case Op::write: client_->copy(place, buffer, request.length, answered); break;
            default: co_return std::errc::operation_not_supported;
        }
        co_return co_await done;
    }
    // Once this has returned no thread may call back any more.
    void close() noexcept override { client_.reset(); }

private:
    std::vector<std::byte>& store_;
    std::unique_ptr<Client> client_ = std::make_unique<Client>();
};

class ClientDisk final : public Backend {
public:
    explicit ClientDisk(std::uint64_t size) : store_(size) {}

    std::string_view name() const noexcept override { return "callback"; }
    Geometry geometry() const override { return {.size = store_.size()}; }
    Capabilities capabilities() const override { return {}; }
    Result<std::unique_ptr<Session>> open_session(Io&) override {
        return std::make_unique<ClientSession>(store_);
    }

private:
    std::vector<std::byte> store_;
};

int fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int main(int count, char** words) {
    if (count != 2) {
        std::fprintf(stderr, "usage: callback MIB\n");
        return 2;
    }
    const std::uint64_t size = std::strtoull(words[1], nullptr, 10) << 20;
    auto device = Device::create(std::make_shared<ClientDisk>(size));
    if (!device) return fail(device.error());
    if (auto started = device->start(); !started) return fail(started.error());
    std::printf("%s\n", device->block_path().c_str());
    std::fflush(stdout);
    const auto served = device->wait();  // until somebody removes it: ashlar del N
    return served ? 0 : fail(served.error());
}
