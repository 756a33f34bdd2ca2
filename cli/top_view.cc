#include "cli/top_view.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ranges>
#include <string_view>

#include "base/units.h"
#include "cli/metrics_text.h"

namespace ashlar::cli {
namespace {

double seconds_of(const Metrics& metrics) {
    return std::chrono::duration<double>(metrics.taken - metrics.from).count();
}

struct Rates {
    double reads = 0, writes = 0, others = 0;  // a second
    double read_bytes = 0, write_bytes = 0;
    [[nodiscard]] double operations() const noexcept { return reads + writes + others; }
};

Rates rates_of(const std::optional<Metrics>& delta) {
    if (!delta || seconds_of(*delta) <= 0) return {};
    const double seconds = seconds_of(*delta);
    const QueueMetrics total = delta->total();
    const auto rate = [seconds](std::uint64_t count) {
        return static_cast<double>(count) / seconds;
    };
    std::uint64_t all = 0;
    for (const OpMetrics& op : total.ops) all += op.count;
    const OpMetrics& reads = total[Op::read];
    const OpMetrics& writes = total[Op::write];
    return {.reads = rate(reads.count),
            .writes = rate(writes.count),
            .others = rate(all - reads.count - writes.count),
            .read_bytes = rate(reads.bytes),
            .write_bytes = rate(writes.bytes)};
}

// Of requests of all kinds.
Histogram latency_of(const std::optional<Metrics>& delta) {
    Histogram all;
    if (!delta) return all;
    for (const QueueMetrics& queue : delta->queues) {
        for (const OpMetrics& op : queue.ops) all.add(op.latency);
    }
    return all;
}

std::string time(const Histogram& histogram, double q) {
    return histogram.count() == 0 ? "-" : format_nanoseconds(histogram.quantile(q));
}

std::string size(double bytes) { return format_size(static_cast<std::uint64_t>(bytes)); }

void push(std::deque<double>& values, double value, std::size_t most) {
    values.push_back(value);
    if (values.size() > most) values.pop_front();
}

constexpr std::array<std::string_view, 4> kOrders = {"device", "operations", "bytes", "latency"};

constexpr int kFixedColumns = 99;  // of a device's line before its graph

}  // namespace

void TopView::update(const std::vector<TopSample>& samples) {
    std::map<DeviceId, Row> rows;
    for (const TopSample& sample : samples) {
        Row row{.now = sample, .delta = {}, .operations = {}, .latency = {}};
        const auto known = rows_.find(sample.info.id);
        if (known != rows_.end() && known->second.now.info.identity == sample.info.identity) {
            row.operations = std::move(known->second.operations);
            row.latency = std::move(known->second.latency);
            const auto& before = known->second.now.metrics;
            if (sample.metrics && before) row.delta = sample.metrics->since(*before);
        }
        push(row.operations, rates_of(row.delta).operations(), kHistory);
        push(row.latency, static_cast<double>(latency_of(row.delta).quantile(0.99)), kHistory);
        rows.emplace(sample.info.id, std::move(row));
    }
    rows_ = std::move(rows);
    if (picked_ && !rows_.contains(*picked_)) picked_.reset();
    if (!picked_ && !rows_.empty()) picked_ = ordered().front()->now.info.id;
}

void TopView::next_order() noexcept {
    order_ = static_cast<TopOrder>((static_cast<unsigned>(order_) + 1) % kOrders.size());
}

void TopView::pick_next() { move_pick(1); }
void TopView::pick_last() { move_pick(-1); }

void TopView::move_pick(int by) {
    const auto rows = ordered();
    const auto at =
        std::ranges::find_if(rows, [&](const Row* row) { return picked_ == row->now.info.id; });
    if (at == rows.end()) return;
    const auto place = std::clamp<std::ptrdiff_t>(at - rows.begin() + by, 0,
                                                  static_cast<std::ptrdiff_t>(rows.size()) - 1);
    picked_ = rows[static_cast<std::size_t>(place)]->now.info.id;
}

// The busiest first, unless it is reversed; devices by number.
std::vector<const TopView::Row*> TopView::ordered() const {
    std::vector<const Row*> rows;
    rows.reserve(rows_.size());
    for (const auto& [id, row] : rows_) rows.push_back(&row);
    const auto key = [this](const Row* row) {
        const Rates rates = rates_of(row->delta);
        switch (order_) {
            case TopOrder::operations: return -rates.operations();
            case TopOrder::bytes: return -(rates.read_bytes + rates.write_bytes);
            case TopOrder::latency: return -row->latency.back();
            default: return 0.0;
        }
    };
    std::ranges::stable_sort(rows, {}, key);
    if (reversed_) std::ranges::reverse(rows);
    return rows;
}

// The newest value at the right; the highest fills its line.
std::string TopView::graph(const std::deque<double>& values, std::size_t columns) const {
    static constexpr std::array<std::string_view, 9> blocks = {" ", "▁", "▂", "▃", "▄",
                                                               "▅", "▆", "▇", "█"};
    static constexpr std::array<std::string_view, 9> letters = {" ", ".", ":", "-", "=",
                                                                "+", "*", "%", "#"};
    const std::size_t shown = std::min(columns, values.size());
    const auto last = values | std::views::drop(values.size() - shown);
    double most = 0;
    for (const double value : last) most = std::max(most, value);
    std::string text(columns - shown, ' ');
    for (const double value : last) {
        const double share = most == 0 ? 0 : value / most;
        // Little is not nothing.
        const auto step =
            value <= 0 ? 0 : std::clamp(static_cast<int>(std::lround(share * 8)), 1, 8);
        text += (unicode_ ? blocks : letters)[static_cast<std::size_t>(step)];
    }
    return text;
}

std::string TopView::line_of(const Row& row, int width) const {
    const Rates rates = rates_of(row.delta);
    const Histogram latency = latency_of(row.delta);
    std::string line =
        fmt::format("{:<8} {:<7} {:<9}", fmt::format("ublkb{}", row.now.info.id),
                    row.now.type.empty() ? "-" : row.now.type, name(row.now.info.state));
    if (!row.now.metrics) return line + "  no server of Ashlar answers";
    const QueueMetrics total = row.delta ? row.delta->total() : QueueMetrics{};
    line +=
        fmt::format(" {:>7} {:>7} {:>11} {:>11} {:>8} {:>8} {:>7} {:>6}", format_count(rates.reads),
                    format_count(rates.writes), size(rates.read_bytes), size(rates.write_bytes),
                    time(latency, 0.5), time(latency, 0.99), total.in_flight, total.errors());
    if (width <= kFixedColumns + 10) return line;
    const auto columns = std::min<std::size_t>(static_cast<std::size_t>(width - kFixedColumns), 60);
    return line + "  " + graph(row.operations, columns - 2);
}

void TopView::add_detail(const Row& row, int width, std::vector<std::string>& lines) const {
    lines.emplace_back();
    lines.push_back(fmt::format("/dev/ublkb{}: {} of {}, {} queues of depth {}, server {}",
                                row.now.info.id, row.now.type.empty() ? "-" : row.now.type,
                                format_size(row.now.size), row.now.info.queues, row.now.info.depth,
                                row.now.info.pid));
    if (!row.delta) return;
    const double seconds = seconds_of(*row.delta);
    const QueueMetrics total = row.delta->total();
    lines.push_back(fmt::format("{:<14} {:>8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
                                "", "/S", "BYTES/S", "P50", "P90", "P99", "P99.9", "MAX",
                                "WAIT P99", "BACK P99"));
    for (std::size_t index = 0; index < kOpCount; ++index) {
        const auto kind = static_cast<Op>(index);
        const OpMetrics& op = total.ops[index];
        if (op.count == 0 && kind != Op::read && kind != Op::write) continue;
        const double scale = seconds > 0 ? 1 / seconds : 0;
        lines.push_back(
            fmt::format("{:<14} {:>8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
                        shown_name(kind), format_count(static_cast<double>(op.count) * scale),
                        size(static_cast<double>(op.bytes) * scale), time(op.latency, 0.5),
                        time(op.latency, 0.9), time(op.latency, 0.99), time(op.latency, 0.999),
                        time(op.latency, 1), time(op.waiting, 0.99), time(op.service, 0.99)));
    }
    const auto columns = static_cast<std::size_t>(std::clamp(width - 14, 10, 100));
    lines.push_back(fmt::format("{:<14}{}", "operations/s", graph(row.operations, columns)));
    lines.push_back(fmt::format("{:<14}{}", "P99", graph(row.latency, columns)));
}

namespace {

// Columns, not bytes: what follows the first byte of a character is not counted.
std::string cut(const std::string& text, int width) {
    int columns = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) continue;
        if (columns++ == width) return text.substr(0, at);
    }
    return text;
}

}  // namespace

TopView::Screen TopView::render(int width, int height) const {
    Screen screen;
    const auto rows = ordered();
    screen.lines.push_back(fmt::format(
        "ashlar top: {} devices, by {}{}   q ends, s sorts, r turns "
        "round, up and down pick",
        rows.size(), kOrders[static_cast<std::size_t>(order_)], reversed_ ? " reversed" : ""));
    screen.lines.push_back(
        fmt::format("{:<8} {:<7} {:<9} {:>7} {:>7} {:>11} {:>11} {:>8} {:>8} {:>7} {:>6}  {}",
                    "DEVICE", "TYPE", "STATE", "READS/S", "WRITES", "READ/S", "WRITTEN/S", "P50",
                    "P99", "FLIGHT", "ERRORS", "OPERATIONS/S"));
    std::vector<std::string> detail;
    const Row* const picked = picked_ ? &rows_.at(*picked_) : nullptr;
    if (picked != nullptr) add_detail(*picked, width, detail);
    // Devices have what the detail leaves, and at least half.
    const int room = height - static_cast<int>(screen.lines.size());
    const int for_rows = std::max({1, room / 2, room - static_cast<int>(detail.size())});
    const auto at = static_cast<int>(std::ranges::find(rows, picked) - rows.begin());
    const int first = std::max(0, std::min(at - for_rows + 1, static_cast<int>(rows.size()) - 1));
    for (int place = first; place < static_cast<int>(rows.size()) && place < first + for_rows;
         ++place) {
        const Row* const row = rows[static_cast<std::size_t>(place)];
        if (picked != nullptr && row == picked)
            screen.picked = static_cast<int>(screen.lines.size());
        screen.lines.push_back(line_of(*row, width));
    }
    if (rows.empty()) screen.lines.emplace_back("no ublk devices; 'ashlar add' makes one");
    screen.lines.insert(screen.lines.end(), detail.begin(), detail.end());
    if (static_cast<int>(screen.lines.size()) > height) {
        screen.lines.resize(static_cast<std::size_t>(std::max(height, 0)));
    }
    for (std::string& line : screen.lines) line = cut(line, width);
    return screen;
}

}  // namespace ashlar::cli
