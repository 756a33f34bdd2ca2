// TestDirectory: a place for a test's files, gone with it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "backends/file/underneath.h"
#include "base/fd.h"

namespace ashlar::file {

class TestDirectory {
public:
    static std::string storage() {
        const char* set = std::getenv("TMPDIR");
        return set != nullptr ? set : "/tmp";
    }
    static constexpr const char* kMemory = "/dev/shm";  // tmpfs on every machine

    explicit TestDirectory(const std::string& parent = storage())
        : path_(parent + "/ashlar-file-XXXXXX") {
        if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no directory " + path_);
    }
    TestDirectory(const TestDirectory&) = delete;
    TestDirectory& operator=(const TestDirectory&) = delete;
    ~TestDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string operator/(const std::string& name) const {
        return path_ + "/" + name;
    }
    [[nodiscard]] bool empty() const { return std::filesystem::is_empty(path_); }
    // A sparse file; its path.
    [[nodiscard]] std::string file(const std::string& name, std::uint64_t size) const {
        std::ofstream(*this / name).close();
        std::filesystem::resize_file(*this / name, size);
        return *this / name;
    }
    // A file with content; its path.
    [[nodiscard]] std::string text(const std::string& name, const std::string& content) const {
        std::ofstream(*this / name) << content;
        return *this / name;
    }
    // Whether open(2) takes O_DIRECT here, which tmpfs does without meaning it.
    [[nodiscard]] bool takes_direct() const { return probe().valid(); }
    [[nodiscard]] bool has_direct_io() const {
        const Fd probed = probe();
        return probed.valid() && !lies_in_memory(probed.get());
    }

private:
    [[nodiscard]] Fd probe() const {
        const std::string path = file("direct-probe", 0);
        Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_DIRECT));
        std::filesystem::remove(path);
        return fd;
    }

    std::string path_;
};

// Bytes that the file takes in its file system.
inline std::uint64_t space_of(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) throw std::runtime_error("no file " + path);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace ashlar::file
