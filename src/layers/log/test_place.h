// TestPlace: a directory for a test's files, gone with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>

namespace ashlar::layers {

class TestPlace {
public:
    TestPlace() {
        if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no directory " + path_);
    }
    TestPlace(const TestPlace&) = delete;
    TestPlace& operator=(const TestPlace&) = delete;
    ~TestPlace() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string operator/(const std::string& name) const {
        return path_ + "/" + name;
    }
    // Makes or replaces it; its path.
    [[nodiscard]] std::string file(const std::string& name, const std::string& content) const {
        std::ofstream(*this / name) << content;
        return *this / name;
    }
    [[nodiscard]] static std::string content(const std::string& path) {
        std::ifstream file(path);
        return {std::istreambuf_iterator<char>(file), {}};
    }

private:
    std::string path_ = std::filesystem::temp_directory_path() / "ashlar-log-XXXXXX";
};

}  // namespace ashlar::layers
