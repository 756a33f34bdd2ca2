// What `ashlar top` shows, as lines of text: no terminal is needed to make them.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/control.h>
#include <ashlar/metrics.h>

namespace ashlar::cli {

enum class TopOrder : std::uint8_t { device, operations, bytes, latency };

// One device as it was found; without metrics when no server of ours answers.
struct TopSample {
    DeviceInfo info;
    std::string type;
    std::uint64_t size = 0;
    std::optional<Metrics> metrics;
};

class TopView {
public:
    // unicode: graphs of blocks, else of ASCII characters.
    explicit TopView(bool unicode) : unicode_(unicode) {}

    // What there is now. Rates are between this and the last time.
    void update(const std::vector<TopSample>& samples);

    void next_order() noexcept;
    void reverse() noexcept { reversed_ = !reversed_; }
    void pick_next();
    void pick_last();

    struct Screen {
        std::vector<std::string> lines;  // at most `height`, each at most `width` columns
        int picked = -1;                 // the line of the picked device; -1: none
    };
    [[nodiscard]] Screen render(int width, int height) const;

private:
    static constexpr std::size_t kHistory = 120;

    struct Row {
        TopSample now;
        std::optional<Metrics> delta;   // since the last time
        std::deque<double> operations;  // a second, newest last
        std::deque<double> latency;     // P99 of all kinds, nanoseconds
    };
    [[nodiscard]] std::vector<const Row*> ordered() const;
    void move_pick(int by);
    [[nodiscard]] std::string line_of(const Row& row, int width) const;
    void add_detail(const Row& row, int width, std::vector<std::string>& lines) const;
    [[nodiscard]] std::string graph(const std::deque<double>& values, std::size_t columns) const;

    const bool unicode_;
    TopOrder order_ = TopOrder::device;
    bool reversed_ = false;
    std::map<DeviceId, Row> rows_;
    std::optional<DeviceId> picked_;
};

}  // namespace ashlar::cli
