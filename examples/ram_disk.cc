#include <ashlar/ashlar.h>
#include <cstdio>
#include <cstring>
#include <vector>

struct RamDisk {
    std::vector<std::byte> bytes = std::vector<std::byte>(256 << 20);
    std::uint64_t size() const { return bytes.size(); }
    ashlar::IoResult read(std::uint64_t at, std::span<std::byte> into) {
        return std::memcpy(into.data(), &bytes[at], into.size()), ashlar::IoResult{};
    }
    ashlar::IoResult write(std::uint64_t at, std::span<const std::byte> from) {
        return std::memcpy(&bytes[at], from.data(), from.size()), ashlar::IoResult{};
    }
};

int main() {
    auto disk = ashlar::Device::create(ashlar::make_backend(RamDisk{})).value();
    disk.start().value();
    std::puts(disk.block_path().c_str());
    disk.wait().value();
}
