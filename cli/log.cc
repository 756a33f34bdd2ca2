#include "cli/log.h"

#include <fmt/format.h>
#include <syslog.h>
#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

namespace ashlar::cli {
namespace {

int syslog_level(Level level) {
    switch (level) {
        case Level::info: return LOG_INFO;
        case Level::warning: return LOG_WARNING;
        case Level::error: return LOG_ERR;
    }
    return LOG_ERR;
}

std::string now() {
    timespec time{};
    clock_gettime(CLOCK_REALTIME, &time);
    tm broken{};
    gmtime_r(&time.tv_sec, &broken);
    std::array<char, 32> text{};
    strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &broken);
    return fmt::format("{}.{:03}Z", text.data(), time.tv_nsec / 1'000'000);
}

}  // namespace

std::string_view name(Level level) {
    switch (level) {
        case Level::info: return "info";
        case Level::warning: return "warning";
        case Level::error: return "error";
    }
    return "?";
}

std::optional<Level> level_of(std::string_view text) {
    for (const Level level : {Level::info, Level::warning, Level::error}) {
        if (name(level) == text) return level;
    }
    return std::nullopt;
}

Log Log::to_stderr() {
    return Log(std::shared_ptr<std::FILE>(stderr, [](std::FILE*) {}));
}

Log Log::to_syslog() {
    openlog("ashlar", LOG_PID, LOG_DAEMON);
    return Log(nullptr);
}

Result<Log> Log::to_file(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "ae");
    if (file == nullptr) {
        return std::unexpected(Error{.operation = "open log file " + path, .code = errno});
    }
    setvbuf(file, nullptr, _IOLBF, 0);
    return Log(std::shared_ptr<std::FILE>(file, [](std::FILE* opened) { std::fclose(opened); }));
}

void Log::set_subject(std::string subject) {
    const std::lock_guard lock(subject_->mutex);
    subject_->text = std::move(subject);
}

Log Log::with_subject(std::string subject) const {
    Log other(file_);
    other.subject_->text = std::move(subject);
    other.set_least(subject_->least);
    return other;
}

void Log::write(Level level, std::string_view message) const {
    if (level < subject_->least) return;
    const std::lock_guard lock(subject_->mutex);
    const std::string& subject = subject_->text;
    if (file_ == nullptr) {
        syslog(syslog_level(level), "%s: %.*s", subject.c_str(), static_cast<int>(message.size()),
               message.data());
        return;
    }
    const std::string line = fmt::format("{} {} {}: {}\n", now(), name(level), subject, message);
    // A log that cannot be written is no reason to stop serving.
    static_cast<void>(std::fwrite(line.data(), 1, line.size(), file_.get()));
}

}  // namespace ashlar::cli
