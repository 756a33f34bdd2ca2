#include <ashlar/ashlar.h>
#include <cstdio>
#include <cstring>
#include <vector>

struct RamDisk {
    std::vector<std::byte> bytes = std::vector<std::byte>(256 << 20);

    std::uint64_t size() const { return bytes.size(); }
    ashlar::IoResult read(std::uint64_t offset, std::span<std::byte> into) {
        return std::memcpy(into.data(), &bytes[offset], into.size()), ashlar::IoResult{};
    }
    ashlar::IoResult write(std::uint64_t offset, std::span<const std::byte> from) {
        return std::memcpy(&bytes[offset], from.data(), from.size()), ashlar::IoResult{};
    }
};

int main() {
    auto disk = ashlar::Device::create(ashlar::make_backend(RamDisk{}));
    auto served = disk ? disk->start() : ashlar::Result<>(std::unexpected(disk.error()));
    if (served) std::puts(disk->block_path().c_str()), served = disk->wait();
    return served ? 0 : (std::fprintf(stderr, "%s\n", served.error().message().c_str()), 1);
}
