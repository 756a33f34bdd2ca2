// A file as a disk. Every operation runs on the queue's ring, any number of them at once, and the
// data goes between the request's pages and the file without passing through this process.
//
//     async_file FILE
#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string>

#include <ashlar/ashlar.h>

using namespace ashlar;

class FileSession final : public Session {
public:
    explicit FileSession(int fd) : fd_(fd) {}
    ~FileSession() override { ::close(fd_); }

    Task<> serve(Io& io, const Request& request) override {
        switch (request.op) {
            case Op::read:
            case Op::write: return transfer(io, request);
            case Op::flush: return flush(io);
            default: return IoResult(std::errc::operation_not_supported);
        }
    }

private:
    // The kernel may transfer less than it was asked for; a request is done when all of it is.
    Task<> transfer(Io& io, const Request& request) {
        for (std::uint32_t done = 0; done < request.length;) {
            const Buffer rest = request.buffer.part(done, request.buffer.length() - done);
            const std::uint64_t at = request.offset + done;
            IoResult part;
            if (request.op == Op::read) {
                part = co_await io.read(fd_, rest, at);
            } else {
                part = co_await io.write(fd_, rest, at);
            }
            if (part.error() == EINTR || part.error() == EAGAIN) continue;
            if (!part.ok()) co_return part;
            if (part.count() == 0) co_return std::errc::io_error;  // somebody cut the file short
            done += static_cast<std::uint32_t>(part.count());
        }
        co_return IoResult{};
    }

    // A sync that failed has lost data, and the kernel says so once: the next would succeed.
    Task<> flush(Io& io) {
        const IoResult synced = co_await io.fdatasync(fd_);
        if (lost_.ok()) lost_ = synced;
        co_return lost_;
    }

    const int fd_;
    IoResult lost_;
};

class AsyncFile final : public Backend {
public:
    AsyncFile(std::string path, std::uint64_t size) : path_(std::move(path)), size_(size) {}

    std::string_view name() const noexcept override { return "async_file"; }
    Geometry geometry() const override { return {.size = size_}; }
    Capabilities capabilities() const override { return {.flush = true}; }
    DataAccess data_access() const noexcept override { return DataAccess::routes; }
    Result<std::unique_ptr<Session>> open_session(Io&) override {
        const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0) return std::unexpected(Error{.operation = "open " + path_, .code = errno});
        return std::make_unique<FileSession>(fd);
    }

private:
    const std::string path_;
    const std::uint64_t size_;
};

int fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int main(int count, char** words) {
    if (count != 2) {
        std::fprintf(stderr, "usage: async_file FILE\n");
        return 2;
    }
    std::error_code failed;
    const std::uint64_t size = std::filesystem::file_size(words[1], failed) / 512 * 512;
    if (failed) return fail({.operation = "open the file", .code = failed.value()});
    auto device = Device::create(std::make_shared<AsyncFile>(words[1], size));
    if (!device) return fail(device.error());
    if (auto started = device->start(); !started) return fail(started.error());
    std::printf("%s\n", device->block_path().c_str());
    std::fflush(stdout);
    const auto served = device->wait();  // until somebody removes it: ashlar del N
    return served ? 0 : fail(served.error());
}
