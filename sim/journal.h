// Journal: what happened in a simulation, as a hash of all, the last events, and the first finding.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "sim/timeline.h"

namespace ashlar::sim {

class Journal {
public:
    explicit Journal(const Timeline& timeline) noexcept : timeline_(timeline) {}

    // what: a literal. The numbers are of this seed only: no addresses, no descriptors.
    void note(const char* what, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0,
              std::uint64_t d = 0) {
        const Event event{timeline_.now(), what, {a, b, c, d}};
        for (const char letter : std::string_view(what)) mix(static_cast<unsigned char>(letter));
        mix(event.at);
        for (const std::uint64_t value : event.values) mix(value);
        events_[count_++ % events_.size()] = event;
        if (to_ != nullptr) print(to_, event);
    }
    // Something is wrong; the first one counts.
    void finding(std::string text) {
        note("finding");
        if (finding_.empty()) finding_ = std::move(text);
    }

    [[nodiscard]] bool failed() const noexcept { return !finding_.empty(); }
    [[nodiscard]] const std::string& finding() const noexcept { return finding_; }
    [[nodiscard]] std::uint64_t hash() const noexcept { return hash_; }
    // From now on every event is printed there.
    void print_to(std::FILE* file) noexcept { to_ = file; }
    void print_last(std::FILE* file) const {
        const std::size_t kept = count_ < events_.size() ? count_ : events_.size();
        for (std::size_t i = count_ - kept; i < count_; ++i) {
            print(file, events_[i % events_.size()]);
        }
    }

private:
    struct Event {
        Instant at = 0;
        const char* what = "";
        std::array<std::uint64_t, 4> values{};
    };
    static void print(std::FILE* file, const Event& event) {
        std::fprintf(file, "%12llu  %s", static_cast<unsigned long long>(event.at), event.what);
        for (const std::uint64_t value : event.values) {
            std::fprintf(file, " %lld", static_cast<long long>(value));
        }
        std::fputc('\n', file);
    }
    void mix(std::uint64_t value) noexcept {
        hash_ = (hash_ ^ value) * 0x0000'0100'0000'01b3;
        hash_ ^= hash_ >> 29;
    }

    const Timeline& timeline_;
    std::uint64_t hash_ = 0xcbf2'9ce4'8422'2325;
    std::size_t count_ = 0;
    std::array<Event, 60> events_{};
    std::string finding_;
    std::FILE* to_ = nullptr;
};

}  // namespace ashlar::sim
