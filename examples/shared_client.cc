// A program that uses a disk without a copy: its buffers lie in memory that it shares with the
// disk's server.
//
//     truncate -s 4M /dev/shm/area
//     ashlar add mem --size 1G --shared-memory /dev/shm/area
//     shared_client /dev/ublkb0 /dev/shm/area
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cstddef>
#include <cstdio>
#include <cstring>

namespace {

constexpr std::size_t kBytes = std::size_t{256} * 1024;

int fail(const char* what) {
    std::perror(what);
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fputs("usage: shared_client DISK AREA\n", stderr);
        return 2;
    }
    const int area = open(argv[2], O_RDWR | O_CLOEXEC);
    if (area < 0) return fail(argv[2]);
    struct stat status{};
    if (fstat(area, &status) != 0) return fail(argv[2]);
    if (static_cast<std::size_t>(status.st_size) < 2 * kBytes) {
        std::fprintf(stderr, "%s: too small; it needs %zu bytes\n", argv[2], 2 * kBytes);
        return 1;
    }
    void* memory = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, area, 0);
    if (memory == MAP_FAILED) return fail("map the area");
    auto* const out = static_cast<std::byte*>(memory);
    auto* const in = out + kBytes;

    // Only O_DIRECT brings these very pages to the disk: the page cache has its own.
    const int disk = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk < 0) return fail(argv[1]);
    std::memset(out, 0x5a, kBytes);
    if (pwrite(disk, out, kBytes, 0) != static_cast<ssize_t>(kBytes)) return fail("write");
    if (pread(disk, in, kBytes, 0) != static_cast<ssize_t>(kBytes)) return fail("read");
    if (std::memcmp(in, out, kBytes) != 0) {
        std::fputs("what was read is not what was written\n", stderr);
        return 1;
    }
    std::printf("%zu bytes written and read, none of them copied\n", kBytes);
    return 0;
}
