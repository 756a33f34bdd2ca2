#include "cli/progress.h"

#include <fmt/format.h>
#include <string_view>
#include <utility>

namespace ashlar::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 500ms;  // of the user
constexpr auto kInterval = 100ms;

Progress* current = nullptr;

void put(int terminal, std::string_view text) {
    // A terminal that is gone misses it.
    static_cast<void>(write(terminal, text.data(), text.size()) >= 0);
}

}  // namespace

Progress::Progress(std::string what, std::optional<std::size_t> total, int terminal)
    : what_(std::move(what)),
      total_(total),
      terminal_(isatty(terminal) != 0 ? terminal : -1),
      next_(Clock::now() + kPatience) {
    current = this;
}

Progress::~Progress() {
    clear();
    current = nullptr;
}

void Progress::make_room() {
    if (current != nullptr) current->clear();
}

void Progress::at(std::size_t done, Clock::time_point now) {
    if (terminal_ < 0 || now < next_) return;
    next_ = now + kInterval;
    shown_ = true;
    put(terminal_, total_ ? fmt::format("\r\033[K{}: {} of {}", what_, done, *total_)
                          : fmt::format("\r\033[K{}: {}", what_, done));
}

void Progress::clear() {
    if (std::exchange(shown_, false)) put(terminal_, "\r\033[K");
}

}  // namespace ashlar::cli
