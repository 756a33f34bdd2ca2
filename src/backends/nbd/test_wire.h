// Bytes as a server sends them, for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace ashlar::nbd {

inline std::vector<std::byte> wire_bytes(std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
    return bytes;
}

// Grows by what is put at its end.
class Stream {
public:
    std::vector<std::byte> bytes{};

    Stream& number(std::uint64_t value, int size) {
        for (int i = size - 1; i >= 0; --i) {
            bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
        }
        return *this;
    }
    Stream& data(std::span<const std::byte> content) {
        bytes.insert(bytes.end(), content.begin(), content.end());
        return *this;
    }

    Stream& simple(std::uint64_t cookie, std::uint32_t error = 0) {
        return number(0x67446698, 4).number(error, 4).number(cookie, 8);
    }
    Stream& chunk(std::uint64_t cookie, int type, std::uint32_t length, bool done) {
        return number(0x668e33ef, 4)
            .number(done ? 1 : 0, 2)
            .number(std::uint64_t(type), 2)
            .number(cookie, 8)
            .number(length, 4);
    }
    Stream& none(std::uint64_t cookie, bool done = true) { return chunk(cookie, 0, 0, done); }
    Stream& data_chunk(std::uint64_t cookie, std::uint64_t offset,
                       std::span<const std::byte> content, bool done) {
        return chunk(cookie, 1, static_cast<std::uint32_t>(content.size()) + 8, done)
            .number(offset, 8)
            .data(content);
    }
    Stream& hole(std::uint64_t cookie, std::uint64_t offset, std::uint32_t length, bool done) {
        return chunk(cookie, 2, 12, done).number(offset, 8).number(length, 4);
    }
    Stream& error(std::uint64_t cookie, std::uint32_t code, bool done,
                  std::string_view message = {}) {
        return chunk(cookie, 0x8001, static_cast<std::uint32_t>(6 + message.size()), done)
            .number(code, 4)
            .number(message.size(), 2)
            .data(std::as_bytes(std::span(message)));
    }
};

}  // namespace ashlar::nbd
