#include "sim/sim_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ashlar::sim {

int SimFiles::add(std::uint64_t size, std::uint32_t block) {
    File& file = files_.emplace_back();
    file.block = block;
    file.current.resize(size);
    file.durable.resize(size);
    file.dirty.resize(size / block);
    return kFirst + static_cast<int>(files_.size() - 1);
}

std::int32_t SimFiles::read(int fd, std::span<std::byte> into, std::uint64_t offset) {
    File* file = find(fd);
    if (file == nullptr) return -EBADF;
    if (offset >= file->current.size()) return 0;
    const std::size_t length = std::min<std::size_t>(into.size(), file->current.size() - offset);
    std::memcpy(into.data(), file->current.data() + offset, length);
    return static_cast<std::int32_t>(length);
}

std::int32_t SimFiles::write(int fd, std::span<const std::byte> from, std::uint64_t offset,
                             bool durable) {
    File* file = find(fd);
    if (file == nullptr) return -EBADF;
    if (offset + from.size() > file->current.size()) return -EFBIG;
    std::memcpy(file->current.data() + offset, from.data(), from.size());
    mark(*file, offset, from.size(), durable);
    return static_cast<std::int32_t>(from.size());
}

std::int32_t SimFiles::sync(int fd) {
    File* file = find(fd);
    if (file == nullptr) return -EBADF;
    for (std::size_t block = 0; block < file->dirty.size(); ++block) {
        if (is_dirty(*file, block)) keep(*file, block);
    }
    return 0;
}

std::int32_t SimFiles::zero(int fd, std::uint64_t offset, std::uint64_t length) {
    File* file = find(fd);
    if (file == nullptr) return -EBADF;
    if (offset + length > file->current.size()) return -EFBIG;
    std::memset(file->current.data() + offset, 0, length);
    mark(*file, offset, length, false);
    return 0;
}

std::byte* SimFiles::locate(int fd, std::uint64_t offset, std::uint64_t length) {
    File* file = find(fd);
    if (file == nullptr || offset + length > file->current.size()) return nullptr;
    file->located = true;
    return file->current.data() + offset;
}

void SimFiles::cut_power(Random& random) {
    for (File& file : files_) {
        for (std::size_t block = 0; block < file.dirty.size(); ++block) {
            if (!is_dirty(file, block)) continue;
            if (random.chance(500)) {
                keep(file, block);
                continue;
            }
            std::memcpy(file.current.data() + block * file.block,
                        file.durable.data() + block * file.block, file.block);
            file.dirty[block] = false;
        }
    }
}

void SimFiles::keep(File& file, std::size_t block) {
    std::memcpy(file.durable.data() + block * file.block, file.current.data() + block * file.block,
                file.block);
    file.dirty[block] = false;
}

void SimFiles::mark(File& file, std::uint64_t offset, std::uint64_t length, bool durable) {
    if (length == 0) return;
    for (std::size_t block = offset / file.block; block <= (offset + length - 1) / file.block;
         ++block) {
        file.dirty[block] = true;
        if (durable) keep(file, block);
    }
}

}  // namespace ashlar::sim
