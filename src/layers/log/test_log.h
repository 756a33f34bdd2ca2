// TestLog: a log made by hand, in memory, that readers open as a file.
#pragma once

#include <sys/mman.h>
#include <unistd.h>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/fd.h"
#include "layers/log/crc32c.h"
#include "layers/log/format.h"

namespace ashlar::layers {

class TestLog {
public:
    using Kind = LogRecord::Kind;

    explicit TestLog(const LogHead& head = {.disk_size = 1 << 16}) {
        const LogBytes first = encode(head);
        bytes.assign(first.begin(), first.end());
    }

    // Each answers the place of its record.
    std::uint64_t write(std::uint64_t offset, std::uint64_t length, char content,
                        bool fua = false) {
        const std::vector<std::byte> data(length, static_cast<std::byte>(content));
        return add(
            {.kind = Kind::write, .fua = fua, .range = {offset, length}, .data_sum = crc32c(data)},
            data);
    }
    std::uint64_t change(Kind kind, std::uint64_t offset, std::uint64_t length) {
        return add({.kind = kind, .range = {offset, length}});
    }
    std::uint64_t flush() { return add({.kind = Kind::flush}); }
    std::uint64_t complete(std::uint64_t request, int error = 0) {
        return add({.kind = Kind::completion, .request = request, .error = error});
    }
    // Begun and answered at once; the log's length afterwards.
    std::uint64_t written(std::uint64_t offset, std::uint64_t length, char content) {
        complete(write(offset, length, content));
        return bytes.size();
    }
    std::uint64_t flushed() {
        complete(flush());
        return bytes.size();
    }
    std::uint64_t add(LogRecord record, const std::vector<std::byte>& data = {}) {
        record.place = bytes.size();
        const LogBytes head = encode(record);
        bytes.insert(bytes.end(), head.begin(), head.end());
        bytes.insert(bytes.end(), data.begin(), data.end());
        return record.place;
    }

    // A path of a file that holds the log as it is now; it lives as long as this.
    std::string path() {
        file_ = Fd(memfd_create("log", MFD_CLOEXEC));
        if (::write(file_.get(), bytes.data(), bytes.size()) !=
            static_cast<ssize_t>(bytes.size())) {
            throw std::runtime_error("no memory for a log");
        }
        return "/proc/self/fd/" + std::to_string(file_.get());
    }

    std::vector<std::byte> bytes;

private:
    Fd file_;
};

}  // namespace ashlar::layers
