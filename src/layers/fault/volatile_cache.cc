#include "layers/fault/volatile_cache.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

namespace ashlar::layers {
namespace {

// As the engine aligns the data of requests, since this goes to the same backends.
constexpr auto kAlignment = std::align_val_t{4096};

std::shared_ptr<std::byte> allocate(std::size_t length) {
    void* memory = ::operator new(length, kAlignment, std::nothrow);
    if (memory == nullptr) return nullptr;
    return {static_cast<std::byte*>(memory),
            [](std::byte* data) { ::operator delete(data, kAlignment); }};
}

VolatileCache::Extent part_of(const VolatileCache::Extent& extent, std::uint64_t from,
                              std::uint64_t length) {
    VolatileCache::Extent part = extent;
    part.length = length;
    if (extent.data != nullptr) {
        part.data = std::shared_ptr<std::byte>(extent.data, extent.data.get() + from);
    }
    return part;
}

}  // namespace

IoResult VolatileCache::write(std::uint64_t offset, std::span<const std::byte> from) {
    auto data = allocate(from.size());
    if (data == nullptr) return std::errc::not_enough_memory;
    std::memcpy(data.get(), from.data(), from.size());
    const std::lock_guard lock(mutex_);
    cut({offset, from.size()});
    extents_.emplace(
        offset, Extent{.length = from.size(), .write = ++last_write_, .data = std::move(data)});
    return {};
}

void VolatileCache::write_zeroes(Range range, bool no_unmap) {
    const std::lock_guard lock(mutex_);
    cut(range);
    extents_.emplace(range.offset,
                     Extent{.length = range.length, .write = ++last_write_, .no_unmap = no_unmap});
}

VolatileCache::Found VolatileCache::read(std::uint64_t offset, std::span<std::byte> into) const {
    const std::lock_guard lock(mutex_);
    Found found;
    auto at = extents_.upper_bound(offset);
    if (at != extents_.begin()) {
        const auto before = std::prev(at);
        if (before->first + before->second.length > offset) at = before;
    }
    for (; found.filled < into.size(); ++at) {
        const std::uint64_t place = offset + found.filled;
        const std::uint64_t left = into.size() - found.filled;
        if (at == extents_.end() || at->first > place) {
            found.missing = at == extents_.end() ? left : std::min(left, at->first - place);
            break;
        }
        const Extent& extent = at->second;
        const std::uint64_t from = place - at->first;
        const std::uint64_t length = std::min(left, extent.length - from);
        if (extent.data != nullptr) {
            std::memcpy(into.data() + found.filled, extent.data.get() + from, length);
        } else {
            std::memset(into.data() + found.filled, 0, length);
        }
        found.filled += length;
    }
    return found;
}

VolatileCache::Snapshot VolatileCache::snapshot() const {
    const std::lock_guard lock(mutex_);
    return {.extents = extents_, .last_write = last_write_};
}

std::uint64_t VolatileCache::last_write() const {
    const std::lock_guard lock(mutex_);
    return last_write_;
}

void VolatileCache::forget(Range range, std::uint64_t last_write) {
    const std::lock_guard lock(mutex_);
    cut(range, last_write);
}

void VolatileCache::cut(Range range, std::uint64_t last_write) {
    const std::uint64_t end = range.offset + range.length;
    auto at = extents_.upper_bound(range.offset);
    if (at != extents_.begin()) --at;
    while (at != extents_.end() && at->first < end) {
        const auto [start, extent] = *at;
        const std::uint64_t stop = start + extent.length;
        if (stop <= range.offset || extent.write > last_write) {
            ++at;
            continue;
        }
        at = extents_.erase(at);
        if (start < range.offset) {
            extents_.emplace(start, part_of(extent, 0, range.offset - start));
        }
        if (stop > end) extents_.emplace(end, part_of(extent, end - start, stop - end));
    }
}

}  // namespace ashlar::layers
