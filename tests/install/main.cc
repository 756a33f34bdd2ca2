// A project of somebody else: opens a disk in memory, and tries to make a device of it.
#include <ashlar/ashlar.h>
#include <ashlar/nbd.h>
#include <cstdio>

int main() {
    const auto memory = ashlar::open_memory({.geometry = {.size = 1 << 20}});
    if (!memory) return 1;
    std::printf("size %llu\n", static_cast<unsigned long long>((*memory)->geometry().size));
    // Nobody listens there.
    const auto nbd = ashlar::open_nbd({.uri = "nbd+unix:///?socket=/nowhere"});
    if (nbd) return 1;
    const auto device = ashlar::Device::create(*memory);
    std::printf("%s\n", device ? device->block_path().c_str() : device.error().message().c_str());
    return 0;
}
