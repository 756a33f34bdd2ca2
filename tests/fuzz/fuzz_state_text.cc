// A server's state file on any text: what is taken for one says processes that exist or none, and
// means the same when it is written again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cli/state_text.h"

namespace {

using namespace ashlar::cli;

void require(bool condition) {
    if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto state = parse_state(7, std::string_view(reinterpret_cast<const char*>(data), size));
    if (!state) return 0;
    require(state->id == 7 && state->pid > 0 && state->supervisor >= 0);
    const std::string text = format_state(*state);
    require(text.ends_with('\n') && text.find('\n') == text.size() - 1);
    const auto again = parse_state(7, text);
    require(again.has_value() && *again == *state);
    return 0;
}
