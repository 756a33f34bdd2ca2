// What the values of a spec say.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ashlar/backends.h>

#include "cli/backend_spec.h"

namespace ashlar::cli {

// Every function answers the value of a key, or what it is without. A value that makes no sense is
// complained about, and the answer is of no use: the first complaint is kept, so look for it once,
// at the end.
class SpecReader {
public:
    // label: what stands before a key in complaints, "--" or "mem: ".
    SpecReader(const Spec& spec, std::string label) : spec_(spec), label_(std::move(label)) {}

    [[nodiscard]] const Spec& spec() const { return spec_; }
    [[nodiscard]] const std::string& path() const { return spec_.path; }
    [[nodiscard]] const std::string& uri() const { return spec_.uri; }
    [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
    // Null if it is not given.
    [[nodiscard]] const std::string* text(std::string_view key) const;

    // From / on; without: empty.
    std::string whole_path(std::string_view key);
    std::uint64_t size(std::string_view key, std::uint64_t fallback);
    std::uint32_t small_size(std::string_view key, std::uint32_t fallback);
    // Decimal digits only: 010 is ten.
    std::uint64_t number(std::string_view key, std::uint64_t least, std::uint64_t most,
                         std::uint64_t fallback);
    // With a sign: "-5".
    int whole_number(std::string_view key, int least, int most, int fallback);
    std::chrono::nanoseconds duration(std::string_view key, std::chrono::nanoseconds fallback);
    // "0.01": 0 to 1.
    double rate(std::string_view key, double fallback);
    // "10ms", "uniform/10ms/2ms", "normal/10ms/2ms", "exponential/10ms"; without: none.
    Latency latency(std::string_view key);
    // "write+flush"; without: empty.
    std::vector<Op> operations(std::string_view key);
    // "1M+64K": an offset and a length.
    std::optional<Range> range(std::string_view key);
    // "ENOSPC", or its number.
    int error_number(std::string_view key, int fallback);
    // One of the values, by what name() calls it.
    template <class T>
    T choice(std::string_view key, std::span<const T> values, T fallback) {
        const std::string* word = text(key);
        if (word == nullptr) return fallback;
        const auto found =
            std::ranges::find_if(values, [&](T value) { return name(value) == *word; });
        if (found != values.end()) return *found;
        std::vector<std::string_view> names;
        for (const T value : values) names.push_back(name(value));
        refuse_choice(key, names);
        return fallback;
    }

    // Complains about what one value or the set of them says; a sentence.
    void refuse(std::string sentence);
    // The key as a person wrote it: "--size", "mem: size".
    [[nodiscard]] std::string labelled(std::string_view key) const;
    [[nodiscard]] const std::optional<std::string>& complaint() const { return complaint_; }

private:
    [[nodiscard]] const SpecOption* find(std::string_view key) const;
    void refuse_choice(std::string_view key, std::span<const std::string_view> names);

    const Spec& spec_;
    std::string label_;
    std::optional<std::string> complaint_;
};

}  // namespace ashlar::cli
