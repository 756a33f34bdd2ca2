// Reading and writing one block of a device, past the page cache.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstddef>
#include <string>

namespace ashlar {

constexpr std::size_t kBlock = 4096;

class File {
public:
    explicit File(const std::string& path, int flags)
        : fd_(open(path.c_str(), flags | O_CLOEXEC)) {}
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
        if (fd_ >= 0) close(fd_);
    }
    [[nodiscard]] int fd() const { return fd_; }

private:
    int fd_;
};

struct alignas(kBlock) Block {
    std::array<char, kBlock> bytes{};
};

inline int write_block(const std::string& path, char content, int flags = O_DIRECT) {
    const File file(path, O_WRONLY | flags);
    Block block;
    block.bytes.fill(content);
    return pwrite(file.fd(), block.bytes.data(), kBlock, 0) == kBlock ? 0 : errno;
}

inline int read_block(const std::string& path, char expected) {
    const File file(path, O_RDONLY | O_DIRECT);
    Block block;
    if (pread(file.fd(), block.bytes.data(), kBlock, 0) != kBlock) return errno;
    for (const char c : block.bytes) EXPECT_EQ(c, expected);
    return 0;
}

}  // namespace ashlar
