// The device's options from any words, a line "KEY VALUE" each: what is accepted is in the ranges
// that the library states, and a complaint names an option.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cli/device_spec.h"

namespace {

using namespace ashlar;
using namespace ashlar::cli;

void require(bool condition) {
    if (!condition) std::abort();
}

Spec split(std::string_view text) {
    Spec spec{.type = "null"};
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(line.size() + (line.size() < text.size() ? 1 : 0));
        const std::size_t blank = line.find(' ');
        SpecOption option{.key = std::string(line.substr(0, blank))};
        if (blank != std::string_view::npos) option.value = line.substr(blank + 1);
        // Without a value where one is needed is what the command line's parser refuses.
        for (const OptionInfo& info : device_option_infos()) {
            if (info.key == option.key && info.value.empty() == !option.value) {
                spec.options.push_back(option);
            }
        }
    }
    return spec;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Spec spec = split(std::string_view(reinterpret_cast<const char*>(data), size));
    const auto device = read_device_options(spec);
    if (!device) {
        require(device.error().starts_with("--"));
        return 0;
    }
    require(device->queues >= 1 && device->queues <= 4096);
    require(device->depth >= 1 && device->depth <= 4096);
    require(device->io_max >= 4096 && device->io_max <= 32U << 20 && device->io_max % 4096 == 0);
    require(device->threads_per_queue >= 1 && device->threads_per_queue <= device->depth);
    require(device->thread_count <= 1024);
    require(device->nice >= -20 && device->nice <= 19);
    require(!device->polling || device->polling->idle >= std::chrono::milliseconds(1));
    require(device->busy_poll <= kBusyPollMost);
    return 0;
}
