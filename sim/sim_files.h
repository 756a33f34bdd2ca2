// SimFiles: files with a volatile cache. What was not synced may be lost, a block as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sim/random.h"

namespace ashlar::sim {

class SimFiles {
public:
    // Descriptors from here on are of simulated files.
    static constexpr int kFirst = 1 << 20;

    // A file of zeroes; answers its descriptor. block: bytes that are kept or lost together.
    int add(std::uint64_t size, std::uint32_t block);

    // As the system calls of these names, but at once: a count or a negative errno. durable: as
    // with RWF_DSYNC.
    std::int32_t read(int fd, std::span<std::byte> into, std::uint64_t offset);
    std::int32_t write(int fd, std::span<const std::byte> from, std::uint64_t offset, bool durable);
    std::int32_t sync(int fd);
    std::int32_t zero(int fd, std::uint64_t offset, std::uint64_t length);

    // The memory of a file, which may change at any time from now on: what is in it becomes durable
    // with a sync. Null past the end.
    std::byte* locate(int fd, std::uint64_t offset, std::uint64_t length);

    // The power fails: of what was not synced each block is kept or lost.
    void cut_power(Random& random);

    [[nodiscard]] std::uint32_t block(int fd) { return find(fd)->block; }
    [[nodiscard]] bool has(int fd) { return find(fd) != nullptr; }

private:
    struct File {
        std::uint32_t block = 512;
        std::vector<std::byte> current;
        std::vector<std::byte> durable;
        std::vector<bool> dirty;  // by block
        bool located = false;     // so any block may be dirty
    };
    File* find(int fd) noexcept {
        const auto index = static_cast<std::size_t>(fd - kFirst);
        return fd >= kFirst && index < files_.size() ? &files_[index] : nullptr;
    }
    static bool is_dirty(const File& file, std::size_t block) {
        return file.located || file.dirty[block];
    }
    static void keep(File& file, std::size_t block);
    static void mark(File& file, std::uint64_t offset, std::uint64_t length, bool durable);

    std::vector<File> files_;
};

}  // namespace ashlar::sim
