#include "base/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/text.h"

namespace wideep {
namespace {

bool label_less(const std::string& a, const std::string& b) {
  const auto number_a = parse_int(a);
  const auto number_b = parse_int(b);
  if (number_a && number_b && number_a != number_b) return *number_a < *number_b;
  return a < b;
}

bool labels_less(const MetricLabels& a, const MetricLabels& b) {
  return std::ranges::lexicographical_compare(a, b, [](const auto& x, const auto& y) {
    return x.first != y.first ? x.first < y.first : label_less(x.second, y.second);
  });
}

bool same_label_names(const MetricLabels& a, const MetricLabels& b) {
  return std::ranges::equal(a, b, {}, &MetricLabels::value_type::first,
                            &MetricLabels::value_type::first);
}

}  // namespace

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {
  CHECK(!bounds_.empty() && std::ranges::is_sorted(bounds_, std::ranges::less_equal{}));
  CHECK(std::isfinite(bounds_.front()) && std::isfinite(bounds_.back()));
}

void Histogram::observe(double value) {
  // NaN is above every bound, as in Prometheus' own clients.
  const auto bucket =
      std::ranges::partition_point(bounds_, [value](double bound) { return !(value <= bound); });
  counts_[static_cast<size_t>(bucket - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

std::vector<uint64_t> Histogram::cumulative_counts() const {
  std::vector<uint64_t> counts;
  uint64_t sum = 0;
  for (const std::atomic<uint64_t>& count : counts_) {
    sum += count.load(std::memory_order_relaxed);
    counts.push_back(sum);
  }
  return counts;
}

MetricsRegistry::Metric& MetricsRegistry::find(std::string_view name, std::string_view help,
                                               MetricType type, const MetricLabels& labels) {
  CHECK(is_metric_name(name));
  for (const auto& [label, value] : labels) CHECK(is_label_name(label));
  auto found = families_.find(name);
  if (found == families_.end()) {
    found = families_.emplace(name, Family{std::string(help), type, {}}).first;
  }
  Family& family = found->second;
  CHECK(family.type == type && family.help == help);
  CHECK(family.metrics.empty() || same_label_names(family.metrics[0].labels, labels));
  // Kept sorted, so that every text is in order.
  const auto place = std::ranges::lower_bound(family.metrics, labels, labels_less, &Metric::labels);
  if (place != family.metrics.end() && place->labels == labels) return *place;
  return *family.metrics.insert(place, Metric{.labels = labels});
}

Counter& MetricsRegistry::counter(std::string_view name, std::string_view help,
                                  const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Metric& metric = find(name, help, MetricType::kCounter, labels);
  if (!metric.counter) metric.counter = std::make_unique<Counter>();
  return *metric.counter;
}

Gauge& MetricsRegistry::gauge(std::string_view name, std::string_view help,
                              const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Metric& metric = find(name, help, MetricType::kGauge, labels);
  if (!metric.gauge) metric.gauge = std::make_unique<Gauge>();
  return *metric.gauge;
}

Histogram& MetricsRegistry::histogram(std::string_view name, std::string_view help,
                                      std::span<const double> bounds, const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Metric& metric = find(name, help, MetricType::kHistogram, labels);
  if (!metric.histogram) metric.histogram = std::make_unique<Histogram>(bounds);
  CHECK(std::ranges::equal(metric.histogram->bounds(), bounds));
  return *metric.histogram;
}

void MetricsRegistry::add_samples(const std::string& name, const Metric& metric,
                                  std::vector<MetricSample>& samples) {
  if (!metric.histogram) {
    const double value = metric.counter ? metric.counter->value() : metric.gauge->value();
    samples.push_back({name, metric.labels, value});
    return;
  }
  const Histogram& histogram = *metric.histogram;
  const std::vector<uint64_t> counts = histogram.cumulative_counts();
  for (size_t i = 0; i < counts.size(); ++i) {
    MetricLabels labels = metric.labels;
    labels.emplace_back(
        "le", i < histogram.bounds().size() ? fmt::format("{}", histogram.bounds()[i]) : "+Inf");
    samples.push_back({name + "_bucket", std::move(labels), static_cast<double>(counts[i])});
  }
  samples.push_back({name + "_sum", metric.labels, histogram.sum()});
  samples.push_back({name + "_count", metric.labels, static_cast<double>(counts.back())});
}

std::vector<MetricFamily> MetricsRegistry::families() const {
  const std::lock_guard lock(mutex_);
  std::vector<MetricFamily> families;
  for (const auto& [name, family] : families_) {
    MetricFamily& copy = families.emplace_back();
    copy.name = name;
    copy.help = family.help;
    copy.type = family.type;
    for (const Metric& metric : family.metrics) add_samples(name, metric, copy.samples);
  }
  return families;
}

}  // namespace wideep
