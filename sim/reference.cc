#include "sim/reference.h"

#include <algorithm>
#include <cstring>

namespace ashlar::sim {

namespace {

constexpr unsigned kNumberBits = 20;

}  // namespace

void fill_block(std::span<std::byte> block, std::uint64_t write, std::uint64_t number) {
    const std::uint64_t word = write == 0 ? 0 : write << kNumberBits | number;
    for (std::size_t at = 0; at < block.size(); at += sizeof(word)) {
        std::memcpy(block.data() + at, &word, sizeof(word));
    }
}

std::optional<std::uint64_t> read_block(std::span<const std::byte> block, std::uint64_t number) {
    std::uint64_t word = 0;
    std::memcpy(&word, block.data(), sizeof(word));
    if (std::memcmp(block.data(), block.data() + sizeof(word), block.size() - sizeof(word)) != 0) {
        return std::nullopt;
    }
    if (word != 0 && (word & ((1U << kNumberBits) - 1)) != number) return std::nullopt;
    return word >> kNumberBits;
}

Reference::Reference(std::uint64_t blocks, std::uint32_t block_bytes, bool is_volatile)
    : block_bytes_(block_bytes), volatile_(is_volatile), blocks_(blocks) {
    // The disk begins as zeroes.
    for (History& history : blocks_) {
        history.push_back({.ended = 0, .done = true, .durable = true});
    }
}

std::uint64_t Reference::begin(Blocks blocks, Kind kind, bool fua) {
    const std::uint64_t number = ++last_;
    const std::uint64_t begun = now();
    for (std::uint64_t block = blocks.first; block < blocks.first + blocks.count; ++block) {
        blocks_[block].push_back({.number = number,
                                  .value = kind == Kind::write ? number : 0,
                                  .begun = begun,
                                  .kind = kind,
                                  .fua = fua});
    }
    return number;
}

void Reference::end(std::uint64_t number, Blocks blocks, Outcome outcome) {
    const std::uint64_t ended = now();
    for (std::uint64_t block = blocks.first; block < blocks.first + blocks.count; ++block) {
        History& history = blocks_[block];
        const auto entry = std::ranges::find(history, number, &Entry::number);
        if (entry == history.end()) continue;
        entry->done = outcome == Outcome::done;
        entry->unknown = outcome == Outcome::unknown;
        if (outcome != Outcome::unknown) entry->ended = ended;
        entry->durable = entry->done && (entry->fua || !volatile_);
    }
}

// A write that began after this one had ended, and ended before the read began, hides it. So does
// one that failed not: it may not have been carried out.
bool Reference::is_visible(const History& history, const Entry& entry, std::uint64_t read_begun) {
    if (entry.overwritten < read_begun) return false;
    return std::ranges::none_of(history, [&](const Entry& later) {
        return later.done && later.kind != Kind::discard && entry.ended < later.begun &&
               later.ended < read_begun;
    });
}

// What had ended before the read began came before what the read has seen, and no read that begins
// from now on sees it.
void Reference::observe(History& history, const Entry& seen, std::uint64_t read_begun) {
    const std::uint64_t instant = now();
    for (Entry& entry : history) {
        if (&entry == &seen || entry.ended >= read_begun) continue;
        entry.overwritten = std::min(entry.overwritten, instant);
    }
}

std::string Reference::check(std::uint64_t begun, Blocks blocks, std::span<const std::byte> data) {
    for (std::uint64_t i = 0; i < blocks.count; ++i) {
        const std::uint64_t block = blocks.first + i;
        const std::string where = "block " + std::to_string(block);
        const auto value = read_block(data.subspan(i * block_bytes_, block_bytes_), block);
        if (!value) return where + " is torn, or holds what nobody wrote";
        History& history = blocks_[block];
        Entry* seen = nullptr;
        bool known = false;
        int fitting = 0;
        for (Entry& entry : history) {
            if (entry.value != *value) continue;
            known = true;
            if (!is_visible(history, entry, begun)) continue;
            seen = &entry;
            ++fitting;
        }
        if (!known) {
            return where + " holds write " + std::to_string(*value) +
                   ", which is not of it or gone";
        }
        if (seen == nullptr) {
            return where + " holds write " + std::to_string(*value) + ", which was overwritten";
        }
        if (fitting == 1 && seen->kind != Kind::discard) observe(history, *seen, begun);
    }
    return {};
}

void Reference::flushed(std::uint64_t begun) {
    for (History& history : blocks_) {
        for (Entry& entry : history) entry.durable |= entry.done && entry.ended < begun;
    }
}

void Reference::settle() {
    const std::uint64_t ended = now();
    for (History& history : blocks_) {
        for (Entry& entry : history) {
            if (!entry.unknown) continue;
            entry.unknown = false;
            entry.ended = ended;
        }
    }
}

void Reference::lose(std::span<const std::uint64_t> in_flight) {
    settle();
    const std::uint64_t instant = now();
    for (History& history : blocks_) {
        // What is durable hides for ever what had ended before it began.
        History kept;
        for (const Entry& entry : history) {
            const bool hidden = std::ranges::any_of(history, [&](const Entry& later) {
                return later.durable && later.kind != Kind::discard && entry.ended < later.begun;
            });
            if (!hidden) kept.push_back(entry);
        }
        // Each of them may be what is left: none hides another.
        for (Entry& entry : kept) {
            entry.overwritten = kOpen;
            if (std::ranges::find(in_flight, entry.number) != in_flight.end()) continue;
            entry.begun = instant;
            entry.ended = instant;
        }
        history = std::move(kept);
    }
}

}  // namespace ashlar::sim
