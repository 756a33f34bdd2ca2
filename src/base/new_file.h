// A file that is being made: gone again if what it is for fails, durable if not.
#pragma once

#include <string>

namespace ashlar {

// Removes the file at its end, unless it is to be kept.
class NewFile {
public:
    // path: of a file that was just made; empty: there is none.
    explicit NewFile(std::string path) noexcept : path_(std::move(path)) {}
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;
    ~NewFile();

    void keep() noexcept { path_.clear(); }

private:
    std::string path_;
};

// A new file's content and its name: without the name a flush would promise too much.
// Answers 0 or an errno.
[[nodiscard]] int make_durable(int fd, const std::string& path);

}  // namespace ashlar
