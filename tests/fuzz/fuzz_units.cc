// parse_size and parse_duration on any text: what they accept is the same when it is written in the
// smallest unit, and a unit more is a thousand times more or too large.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/units.h"

namespace {

using namespace ashlar;

void require(bool condition) {
    if (!condition) std::abort();
}

void check_size(std::string_view text) {
    const auto bytes = parse_size(text);
    require(bytes.has_value() || !bytes.error().empty());
    if (!bytes) return;
    require(parse_size(std::to_string(*bytes)) == *bytes);
    require(!format_size(*bytes).empty());
    const auto kib = parse_size(std::to_string(*bytes) + "K");
    require(kib.has_value() == (*bytes <= UINT64_MAX / 1024));
    require(!kib || *kib == *bytes * 1024);
}

void check_duration(std::string_view text) {
    const auto time = parse_duration(text);
    require(time.has_value() || !time.error().empty());
    if (!time) return;
    const auto count = time->count();
    require(count >= 0);
    require(parse_duration(std::to_string(count) + "ns") == *time);
    const auto longer = parse_duration(std::to_string(count) + "us");
    require(!longer || longer->count() == count * 1000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check_size(text);
    check_duration(text);
    return 0;
}
