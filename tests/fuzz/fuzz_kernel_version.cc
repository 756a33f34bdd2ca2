// parse_kernel_version on any text: what it accepts begins with the two numbers it answers, and
// later releases never have fewer features.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kernel/features.h"

namespace {

using namespace ashlar;

void require(bool condition) {
    if (!condition) std::abort();
}

// "06.012" as "6.12", to compare with what was parsed.
std::string without_leading_zeroes(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool starts_number = result.empty() || result.back() == '.';
        const bool digit_follows = i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
        if (text[i] == '0' && starts_number && digit_follows) continue;
        result += text[i];
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto version = kernel::parse_kernel_version(text);
    if (!version) return 0;
    require(without_leading_zeroes(text).starts_with(kernel::to_string(*version)));
    require(kernel::parse_kernel_version(kernel::to_string(*version)) == version);

    const std::uint64_t features = kernel::features_since(*version);
    require((kernel::infer_features(*version) & ~features) == 0);
    if (version->minor < UINT32_MAX) {
        const kernel::KernelVersion next{version->major, version->minor + 1};
        require((features & ~kernel::features_since(next)) == 0);
    }
    return 0;
}
