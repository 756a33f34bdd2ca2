// Reference: what each logical block of the disk may hold, from what the block layer asked for and
// was answered. It knows nothing of how a server works.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/timeline.h"

namespace ashlar::sim {

// A block's content names the write it is of: every 8 bytes of it are write << 20 | block. Write 0
// is a block of zeroes.
void fill_block(std::span<std::byte> block, std::uint64_t write, std::uint64_t number);
// The write, or nothing if the block is torn or holds what no write put there.
[[nodiscard]] std::optional<std::uint64_t> read_block(std::span<const std::byte> block,
                                                      std::uint64_t number);

class Reference {
public:
    // is_volatile: what was written may vanish until it is flushed.
    Reference(std::uint64_t blocks, std::uint32_t block_bytes, bool is_volatile);

    struct Blocks {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
    };
    enum class Kind : std::uint8_t {
        write,
        zeroes,
        discard,  // afterwards any earlier content, or zeroes
    };
    enum class Outcome : std::uint8_t {
        done,
        failed,   // it may have been carried out, up to now
        unknown,  // it may be carried out still, until settle()
    };
    // A request that changes blocks begins: answers its number, which is also what write fills
    // with.
    std::uint64_t begin(Blocks blocks, Kind kind, bool fua);
    void end(std::uint64_t number, Blocks blocks, Outcome outcome);

    // A read, or a flush, begins: answers the moment. Then its end.
    [[nodiscard]] std::uint64_t now() noexcept { return ++clock_; }
    // Empty if all of it is what a disk may answer, else what is wrong.
    [[nodiscard]] std::string check(std::uint64_t begun, Blocks blocks,
                                    std::span<const std::byte> data);
    void flushed(std::uint64_t begun);

    // No server is there any more: what was unknown has happened by now, or never will.
    void settle();
    // And the power failed: what was not flushed may be gone. in_flight: numbers of requests that
    // will be given to the next server.
    void lose(std::span<const std::uint64_t> in_flight);

private:
    static constexpr std::uint64_t kOpen = std::numeric_limits<std::uint64_t>::max();
    struct Entry {
        std::uint64_t number = 0;
        std::uint64_t value = 0;  // what the block then holds; 0: zeroes
        std::uint64_t begun = 0;
        std::uint64_t ended = kOpen;
        Kind kind = Kind::write;
        bool fua = false;
        bool done = false;
        bool durable = false;
        std::uint64_t overwritten = kOpen;  // when a read had seen what came later
        bool unknown = false;
    };
    using History = std::vector<Entry>;

    [[nodiscard]] static bool is_visible(const History& history, const Entry& entry,
                                         std::uint64_t read_begun);
    void observe(History& history, const Entry& seen, std::uint64_t read_begun);

    const std::uint32_t block_bytes_;
    const bool volatile_;
    std::uint64_t clock_ = 0;
    std::uint64_t last_ = 0;
    std::vector<History> blocks_;
};

}  // namespace ashlar::sim
