// Where a server's messages go: stderr in the foreground, else syslog or a file.
#pragma once

#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <ashlar/result.h>

namespace ashlar::cli {

enum class Level { info, warning, error };
[[nodiscard]] std::string_view name(Level level);
// Empty: no such level.
[[nodiscard]] std::optional<Level> level_of(std::string_view name);

// Thread: any.
class Log {
public:
    static Log to_stderr();
    static Log to_syslog();
    // Appends. Errors: those of open(2).
    static Result<Log> to_file(const std::string& path);

    // Of the log file; -1 for syslog.
    [[nodiscard]] int descriptor() const { return file_ == nullptr ? -1 : fileno(file_.get()); }
    void write(Level level, std::string_view message) const;
    // What is less is not written, here and by copies.
    void set_least(Level level) const { subject_->least = level; }
    // "ublk0" in every line from now on, of copies too.
    void set_subject(std::string subject);
    // The same log, for lines with a subject of their own.
    [[nodiscard]] Log with_subject(std::string subject) const;

private:
    struct Subject {
        std::mutex mutex;
        std::string text = "ashlar";
        std::atomic<Level> least = Level::info;
    };
    explicit Log(std::shared_ptr<std::FILE> file) : file_(std::move(file)) {}
    std::shared_ptr<std::FILE> file_;  // none: syslog
    std::shared_ptr<Subject> subject_ = std::make_shared<Subject>();
};

}  // namespace ashlar::cli
