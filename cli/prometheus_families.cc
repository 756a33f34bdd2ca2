#include "cli/prometheus_families.h"

#include <fmt/format.h>
#include <limits>
#include <string>
#include <utility>

#include "cli/metrics_text.h"

namespace ashlar::cli {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

constexpr double kNanosecond = 1e-9;

MetricFamily family(std::string name, std::string help, MetricType type) {
    MetricFamily made;
    made.name = "ashlar_" + std::move(name);
    made.help = std::move(help);
    made.type = type;
    return made;
}

void add_value(MetricFamily& to, Labels labels, double value) {
    ClientMetric sample;
    sample.label = std::move(labels);
    if (to.type == MetricType::Counter) {
        sample.counter.value = value;
    } else {
        sample.gauge.value = value;
    }
    to.metric.push_back(std::move(sample));
}

void add_number(MetricFamily& to, Labels labels, std::uint64_t value) {
    add_value(to, std::move(labels), static_cast<double>(value));
}

// Bounds are powers of two from 2^first to 2^last, where a histogram of ours knows exactly how much
// is below; a value that is a bound itself counts above it, by less than 2^-first of it.
void add_histogram(MetricFamily& to, Labels labels, const Histogram& from, unsigned first,
                   unsigned last, double unit) {
    ClientMetric sample;
    sample.label = std::move(labels);
    for (unsigned power = first; power <= last; ++power) {
        const std::uint64_t bound = std::uint64_t{1} << power;
        sample.histogram.bucket.push_back({.cumulative_count = from.count_below(bound),
                                           .upper_bound = static_cast<double>(bound) * unit});
    }
    sample.histogram.bucket.push_back(
        {.cumulative_count = from.count(), .upper_bound = std::numeric_limits<double>::infinity()});
    sample.histogram.sample_count = from.count();
    sample.histogram.sample_sum = static_cast<double>(from.sum()) * unit;
    to.metric.push_back(std::move(sample));
}

class Families {
public:
    void add(const ExportedDevice& device) {
        const DeviceInfo& info = device.report.info;
        const Labels labels = {{"device", fmt::format("ublkb{}", info.id)}};
        Labels about = labels;
        about.push_back({"type", device.report.type.empty() ? "other" : device.report.type});
        about.push_back({"state", std::string(name(info.state))});
        add_number(info_, std::move(about), 1);
        add_number(size_, labels, device.report.params.geometry.size);
        add_number(up_, labels, device.metrics ? 1 : 0);
        if (!device.metrics) return;
        add_number(recoveries_, labels, device.recoveries);
        for (std::size_t queue = 0; queue < device.metrics->queues.size(); ++queue) {
            add_queue(labels, queue, device.metrics->queues[queue]);
        }
        if (device.metrics->timed) add_times(labels, device.metrics->total());
        for (const BackendCounter& counter : device.metrics->backend) {
            add_counter(labels, counter);
        }
    }

    std::vector<MetricFamily> take() {
        std::vector<MetricFamily> all;
        for (MetricFamily* each :
             {&info_, &size_, &up_, &recoveries_, &requests_, &bytes_, &errors_, &in_flight_,
              &latency_, &waiting_, &service_, &request_size_, &batch_}) {
            if (!each->metric.empty()) all.push_back(std::move(*each));
        }
        for (MetricFamily& each : backend_) all.push_back(std::move(each));
        return all;
    }

private:
    static Labels with_op(Labels labels, Op op) {
        labels.push_back({"op", std::string(shown_name(op))});
        return labels;
    }

    void add_queue(Labels labels, std::size_t number, const QueueMetrics& queue) {
        labels.push_back({"queue", std::to_string(number)});
        add_number(in_flight_, labels, queue.in_flight);
        for (std::size_t index = 0; index < kOpCount; ++index) {
            const auto kind = static_cast<Op>(index);
            const OpMetrics& op = queue.ops[index];
            if (op.count == 0 && !is_usual(kind)) continue;
            add_number(requests_, with_op(labels, kind), op.count);
            add_number(errors_, with_op(labels, kind), op.errors);
            if (kind != Op::flush) add_number(bytes_, with_op(labels, kind), op.bytes);
        }
    }

    void add_times(const Labels& labels, const QueueMetrics& total) {
        for (std::size_t index = 0; index < kOpCount; ++index) {
            const auto kind = static_cast<Op>(index);
            const OpMetrics& op = total.ops[index];
            if (op.count == 0) continue;
            const Labels of = with_op(labels, kind);
            // 1 us to 17 s.
            add_histogram(latency_, of, op.latency, 10, 34, kNanosecond);
            add_histogram(waiting_, of, op.waiting, 10, 34, kNanosecond);
            add_histogram(service_, of, op.service, 10, 34, kNanosecond);
            if (kind != Op::flush) add_histogram(request_size_, of, op.size, 9, 25, 1);
        }
        add_histogram(batch_, labels, total.batch, 0, 12, 1);
    }

    void add_counter(const Labels& labels, const BackendCounter& counter) {
        const std::string name = "backend_" + counter.name + "_total";
        for (MetricFamily& known : backend_) {
            if (known.name == "ashlar_" + name) return add_number(known, labels, counter.value);
        }
        backend_.push_back(family(name, "Backend: " + counter.what + ".", MetricType::Counter));
        add_number(backend_.back(), labels, counter.value);
    }

    MetricFamily info_ = family("device_info", "A ublk device of this machine.", MetricType::Gauge);
    MetricFamily size_ = family("device_size_bytes", "Size of the disk.", MetricType::Gauge);
    MetricFamily up_ = family("server_up", "Whether a server of Ashlar answers for the device.",
                              MetricType::Gauge);
    MetricFamily recoveries_ =
        family("recoveries_total", "Times that another server took over.", MetricType::Counter);
    MetricFamily requests_ = family("requests_total", "Requests answered.", MetricType::Counter);
    MetricFamily bytes_ =
        family("request_bytes_total", "Bytes that requests asked for.", MetricType::Counter);
    MetricFamily errors_ =
        family("request_errors_total", "Requests answered with an error.", MetricType::Counter);
    MetricFamily in_flight_ =
        family("requests_in_flight", "Requests without an answer.", MetricType::Gauge);
    MetricFamily latency_ =
        family("request_latency_seconds", "From the round that brought a request to its answer.",
               MetricType::Histogram);
    MetricFamily waiting_ =
        family("request_waiting_seconds", "Part of the latency: waiting for others of its round.",
               MetricType::Histogram);
    MetricFamily service_ = family("request_service_seconds",
                                   "Part of the latency: in the backend.", MetricType::Histogram);
    MetricFamily request_size_ =
        family("request_size_bytes", "Sizes of requests.", MetricType::Histogram);
    MetricFamily batch_ =
        family("round_requests", "Requests that one round brought.", MetricType::Histogram);
    std::vector<MetricFamily> backend_;
};

}  // namespace

std::vector<MetricFamily> families_of(const std::vector<ExportedDevice>& devices) {
    Families families;
    for (const ExportedDevice& device : devices) families.add(device);
    return families.take();
}

}  // namespace ashlar::cli
