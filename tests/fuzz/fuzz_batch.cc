// Batch elements: any bytes read as elements and written again are the same bytes, and what the
// driver would make of the command agrees.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernel/codec.h"

namespace {

using namespace ashlar;
namespace abi = kernel::abi;

void require(bool condition) {
    if (!condition) std::abort();
}

// The driver's rule for a prepare or commit, written from its source (7.3).
bool driver_accepts(const abi::BatchIo& command) {
    if (command.flags > 7) return false;
    if ((command.flags & 4) != 0 && (command.flags & 2) != 0) return false;
    unsigned bytes = 8;
    if ((command.flags & 1) != 0) bytes += 8;
    if ((command.flags & 2) != 0) bytes += 8;
    return command.elem_bytes == bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::uint16_t flags = 0;
    if (size < sizeof flags) return 0;
    std::memcpy(&flags, data, sizeof flags);
    const auto bytes = std::as_bytes(std::span(data, size)).subspan(sizeof flags);

    const std::size_t element_bytes = kernel::batch_element_bytes(flags);
    require(element_bytes <= kernel::batch_element_bytes_max);
    std::vector<std::byte> again(bytes.size() + element_bytes);
    std::size_t at = 0;
    std::uint32_t count = 0;
    while (const auto element = kernel::decode_batch_element(flags, bytes.subspan(at))) {
        at += kernel::encode_batch_element(flags, *element, again.data() + at);
        ++count;
    }
    require(at == count * element_bytes && bytes.size() - at < element_bytes);
    require(at == 0 || std::memcmp(again.data(), bytes.data(), at) == 0);
    require(kernel::batch_committed(static_cast<std::int32_t>(at), flags) == count);

    const abi::BatchIo command = kernel::make_batch_io(1, flags, static_cast<std::uint16_t>(count));
    require(driver_accepts(command) == kernel::batch_flags_valid(flags));
    return 0;
}
