#include "cli/spec_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "base/units.h"

namespace ashlar::cli {
namespace {

constexpr int kErrnoMost = 133;

// Decimal digits and nothing else.
template <class Number = std::uint64_t>
std::optional<Number> parse_number(std::string_view text) {
    Number value = 0;
    const char* const first = text.data();
    const char* const end = first + text.size();
    const auto parsed = std::from_chars(first, end, value);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
    return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const auto at = text.find(separator);
        parts.push_back(text.substr(0, at));
        if (at == std::string_view::npos) return parts;
        text.remove_prefix(at + 1);
    }
}

struct NamedOp {
    std::string_view name;
    Op op;
};
constexpr std::array kOps = {NamedOp{"read", Op::read}, NamedOp{"write", Op::write},
                             NamedOp{"flush", Op::flush}, NamedOp{"discard", Op::discard},
                             NamedOp{"write-zeroes", Op::write_zeroes}};

struct NamedShape {
    std::string_view name;
    Latency::Shape shape;
    std::size_t times;
};
constexpr std::array kShapes = {NamedShape{"uniform", Latency::Shape::uniform, 2},
                                NamedShape{"normal", Latency::Shape::normal, 2},
                                NamedShape{"exponential", Latency::Shape::exponential, 1}};
constexpr std::string_view kLatencyAllowed =
    "write a time such as 10ms, uniform/10ms/2ms (mean, spread), normal/10ms/2ms or "
    "exponential/10ms";

Parsed<Latency> parse_latency(std::string_view text) {
    const auto parts = split(text, '/');
    Latency latency;
    std::size_t first = 0;
    if (parts.size() > 1) {
        const auto shape = std::ranges::find(kShapes, parts[0], &NamedShape::name);
        if (shape == kShapes.end() || parts.size() != 1 + shape->times) {
            return std::unexpected(fmt::format("'{}' is no latency: {}", text, kLatencyAllowed));
        }
        latency.shape = shape->shape;
        first = 1;
    }
    for (std::size_t at = first; at < parts.size(); ++at) {
        const auto time = parse_duration(parts[at]);
        if (!time) {
            return std::unexpected(fmt::format("'{}' is no latency: {}", text, kLatencyAllowed));
        }
        (at == first ? latency.mean : latency.spread) = *time;
    }
    return latency;
}

int parse_errno(std::string_view text) {
    if (const auto number = parse_number(text)) {
        return *number >= 1 && *number <= kErrnoMost ? static_cast<int>(*number) : 0;
    }
    for (int code = 1; code <= kErrnoMost; ++code) {
        const char* name = strerrorname_np(code);
        if (name != nullptr && name == text) return code;
    }
    return 0;
}

}  // namespace

const SpecOption* SpecReader::find(std::string_view key) const {
    const auto found = std::ranges::find(spec_.options, key, &SpecOption::key);
    return found == spec_.options.end() ? nullptr : &*found;
}

const std::string* SpecReader::text(std::string_view key) const {
    const SpecOption* option = find(key);
    return option == nullptr || !option->value ? nullptr : &*option->value;
}

void SpecReader::refuse(std::string sentence) {
    if (!complaint_) complaint_ = std::move(sentence);
}

std::string SpecReader::labelled(std::string_view key) const {
    return fmt::format("{}{}", label_, key);
}

void SpecReader::refuse_choice(std::string_view key, std::span<const std::string_view> names) {
    refuse(fmt::format("{} is '{}'; allowed are {}", labelled(key), *text(key),
                       fmt::join(names, ", ")));
}

std::string SpecReader::whole_path(std::string_view key) {
    const std::string* path = text(key);
    if (path == nullptr) return {};
    if (!path->starts_with('/')) {
        refuse(fmt::format("{} is '{}'; write the whole path, from /", labelled(key), *path));
    }
    return *path;
}

std::uint64_t SpecReader::size(std::string_view key, std::uint64_t fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    const auto bytes = parse_size(*given);
    if (bytes) return *bytes;
    refuse(fmt::format("{}: {}", labelled(key), bytes.error()));
    return fallback;
}

std::uint32_t SpecReader::small_size(std::string_view key, std::uint32_t fallback) {
    const std::uint64_t bytes = size(key, fallback);
    if (bytes <= std::numeric_limits<std::uint32_t>::max()) {
        return static_cast<std::uint32_t>(bytes);
    }
    refuse(fmt::format("{}: {} is too large", labelled(key), *text(key)));
    return fallback;
}

std::uint64_t SpecReader::number(std::string_view key, std::uint64_t least, std::uint64_t most,
                                 std::uint64_t fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    const auto value = parse_number(*given);
    if (value && *value >= least && *value <= most) return *value;
    refuse(fmt::format("{} is '{}'; allowed are {} to {}", labelled(key), *given, least, most));
    return fallback;
}

int SpecReader::whole_number(std::string_view key, int least, int most, int fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    const auto value = parse_number<int>(*given);
    if (value && *value >= least && *value <= most) return *value;
    refuse(fmt::format("{} is '{}'; allowed are {} to {}", labelled(key), *given, least, most));
    return fallback;
}

std::chrono::nanoseconds SpecReader::duration(std::string_view key,
                                              std::chrono::nanoseconds fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    const auto time = parse_duration(*given);
    if (time) return *time;
    refuse(fmt::format("{}: {}", labelled(key), time.error()));
    return fallback;
}

double SpecReader::rate(std::string_view key, double fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    double value = 0;
    const char* end = given->data() + given->size();
    const auto parsed = std::from_chars(given->data(), end, value, std::chars_format::fixed);
    // Not a number fails both comparisons.
    if (parsed.ec == std::errc{} && parsed.ptr == end && value >= 0 && value <= 1) return value;
    refuse(fmt::format("{} is '{}'; allowed are 0 to 1, such as 0.01", labelled(key), *given));
    return fallback;
}

Latency SpecReader::latency(std::string_view key) {
    const std::string* given = text(key);
    if (given == nullptr) return {};
    const auto latency = parse_latency(*given);
    if (latency) return *latency;
    refuse(fmt::format("{}: {}", labelled(key), latency.error()));
    return {};
}

std::vector<Op> SpecReader::operations(std::string_view key) {
    const std::string* given = text(key);
    if (given == nullptr) return {};
    std::vector<Op> operations;
    for (const std::string_view word : split(*given, '+')) {
        const auto found = std::ranges::find(kOps, word, &NamedOp::name);
        if (found == kOps.end()) {
            std::vector<std::string_view> names;
            names.reserve(kOps.size());
            for (const NamedOp& op : kOps) names.push_back(op.name);
            refuse(fmt::format("{}: '{}' is no operation; allowed are {}, with + between",
                               labelled(key), word, fmt::join(names, ", ")));
            return {};
        }
        operations.push_back(found->op);
    }
    return operations;
}

std::optional<Range> SpecReader::range(std::string_view key) {
    const std::string* given = text(key);
    if (given == nullptr) return std::nullopt;
    const auto parts = split(*given, '+');
    if (parts.size() == 2) {
        const auto offset = parse_size(parts[0]);
        const auto length = parse_size(parts[1]);
        if (offset && length && *length > 0) return Range{.offset = *offset, .length = *length};
    }
    refuse(fmt::format("{}: '{}' is no range; write an offset and a length, such as 1M+64K",
                       labelled(key), *given));
    return std::nullopt;
}

int SpecReader::error_number(std::string_view key, int fallback) {
    const std::string* given = text(key);
    if (given == nullptr) return fallback;
    if (const int code = parse_errno(*given); code != 0) return code;
    refuse(fmt::format("{}: '{}' is no errno; write a name such as EIO or ENOSPC, or 1 to {}",
                       labelled(key), *given, kErrnoMost));
    return fallback;
}

}  // namespace ashlar::cli
