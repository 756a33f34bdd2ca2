// A session as a user of the library writes it. Compiled by a test of its own, as a user compiles:
// without optimisation and with warnings as errors, which the public headers must not give.
#include <chrono>
#include <memory>
#include <system_error>

#include <ashlar/ashlar.h>

class Later final : public ashlar::Session {
public:
    Later(ashlar::Io& own, int fd) : own_(own), fd_(fd) {}

    ashlar::Task<> serve(ashlar::Io& io, const ashlar::Request& request) override {
        if (request.op == ashlar::Op::flush) co_return co_await flush(io);
        if (request.op != ashlar::Op::read) co_return co_await elsewhere(io);
        const ashlar::IoResult read =
            co_await io.read(fd_, request.buffer, request.offset).within(std::chrono::seconds(1));
        if (read.ok() && read.count() < request.length) co_return std::errc::io_error;
        co_return read;
    }

private:
    ashlar::Task<> flush(ashlar::Io& io) {
        co_return co_await io.offload([fd = fd_]() noexcept {
            return fd >= 0 ? ashlar::IoResult() : ashlar::IoResult(std::errc::io_error);
        });
    }
    ashlar::Task<> elsewhere(ashlar::Io&) {
        ashlar::Completion done(own_);
        done.complete({});
        co_return co_await done;
    }
    ashlar::Io& own_;
    int fd_;
};

std::unique_ptr<ashlar::Session> open(ashlar::Io& io) { return std::make_unique<Later>(io, 0); }
