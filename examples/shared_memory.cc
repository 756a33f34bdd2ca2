// A RAM disk that outlives its server: its bytes lie in /dev/shm/NAME, where the next server finds
// them. The disk says where they lie, so the kernel copies straight to and from there.
//
//     shared_memory NAME MIB
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <ashlar/ashlar.h>

using namespace ashlar;

class SharedMemory {
public:
    // Makes the object if it is not there. size: bytes.
    static Result<std::shared_ptr<SharedMemory>> open(const std::string& name, std::uint64_t size) {
        const int fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
        if (fd < 0) return std::unexpected(Error{.operation = "open " + name, .code = errno});
        // All of it now: where a page is missing later, the process is killed (SIGBUS).
        int code = posix_fallocate(fd, 0, static_cast<off_t>(size));
        void* bytes = MAP_FAILED;
        if (code == 0) {
            bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (bytes == MAP_FAILED) code = errno;
        }
        close(fd);  // the mapping stays
        if (code != 0) {
            return std::unexpected(Error{.operation = "take memory for " + name,
                                         .code = code,
                                         .detail = std::to_string(size) + " bytes"});
        }
        return std::make_shared<SharedMemory>(static_cast<std::byte*>(bytes), size);
    }
    SharedMemory(std::byte* bytes, std::uint64_t size) : bytes_(bytes), size_(size) {}
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    ~SharedMemory() { munmap(bytes_, size_); }

    std::uint64_t size() const { return size_; }
    // The queue waits for each call: a gigabyte of zeroes at a time would be felt.
    Geometry geometry() const { return {.write_zeroes_max = 1 << 20}; }

    IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        std::memcpy(into.data(), bytes_ + offset, into.size());
        return {};
    }
    IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        std::memcpy(bytes_ + offset, from.data(), from.size());
        return {};
    }
    IoResult write_zeroes(Range range, bool) {
        std::memset(bytes_ + range.offset, 0, range.length);
        return {};
    }
    std::byte* locate(Range range) noexcept { return bytes_ + range.offset; }

private:
    std::byte* bytes_;
    std::uint64_t size_;
};

int fail(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int main(int count, char** words) {
    if (count != 3) {
        std::fprintf(stderr, "usage: shared_memory NAME MIB\n");
        return 2;
    }
    auto memory = SharedMemory::open(words[1], std::strtoull(words[2], nullptr, 10) << 20);
    if (!memory) return fail(memory.error());
    auto device = Device::create(make_backend(*memory));
    if (!device) return fail(device.error());
    if (auto started = device->start(); !started) return fail(started.error());
    std::printf("%s\n", device->block_path().c_str());
    std::fflush(stdout);
    const auto served = device->wait();  // until somebody removes it: ashlar del N
    return served ? 0 : fail(served.error());
}
