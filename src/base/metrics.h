// Metrics of a running program: counters, gauges and histograms, which any thread changes without a
// lock and nobody reads until somebody asks. There is no global registry: the program makes one and
// passes it down; who observes keeps references to its metrics.
//
//   MetricsRegistry registry;
//   Counter& iterations = registry.counter("wideep_iterations_total", "Iterations of the engine.");
//   iterations.add();
//   registry.text();
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/metrics_text.h"

namespace wideep {

// Only grows. The name of a counter ends with _total.
class Counter {
 public:
  void add(double amount = 1) {
    CHECK_GE(amount, 0);
    value_.fetch_add(amount, std::memory_order_relaxed);
  }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class Gauge {
 public:
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  void add(double amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

// How often values were at or below each of some bounds, and their sum.
class Histogram {
 public:
  // bounds: strictly ascending, finite, at least one; +Inf is added.
  explicit Histogram(std::span<const double> bounds);

  // O(log bounds).
  void observe(double value);

  std::span<const double> bounds() const { return bounds_; }
  // Values at or below bounds()[i], for i = bounds().size() all of them.
  std::vector<uint64_t> cumulative_counts() const;
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // [bounds + 1], of each bucket alone
  std::atomic<double> sum_{0};
};

class MetricsRegistry {
 public:
  MetricsRegistry() = default;
  MetricsRegistry(const MetricsRegistry&) = delete;

  // The metric of that name and these labels, made at the first call; it lives as long as the
  // registry. All metrics of a name have one type, one help text (a sentence) and the same label
  // names; CHECKed, as names are.
  Counter& counter(std::string_view name, std::string_view help, const MetricLabels& labels = {});
  Gauge& gauge(std::string_view name, std::string_view help, const MetricLabels& labels = {});
  // Of one name with the same bounds.
  Histogram& histogram(std::string_view name, std::string_view help, std::span<const double> bounds,
                       const MetricLabels& labels = {});

  // All metrics, by name, then by their labels (numbers by value: layer 9 before layer 10).
  std::vector<MetricFamily> families() const;
  // families() in Prometheus' format.
  std::string text() const { return metrics_text(families()); }

 private:
  struct Metric {
    MetricLabels labels;
    std::unique_ptr<Counter> counter = nullptr;  // one of these
    std::unique_ptr<Gauge> gauge = nullptr;
    std::unique_ptr<Histogram> histogram = nullptr;
  };
  struct Family {
    std::string help;
    MetricType type = MetricType::kUntyped;
    std::vector<Metric> metrics;
  };

  // The place of a metric, new ones without their value. Needs mutex_.
  Metric& find(std::string_view name, std::string_view help, MetricType type,
               const MetricLabels& labels);
  static void add_samples(const std::string& name, const Metric& metric,
                          std::vector<MetricSample>& samples);

  mutable std::mutex mutex_;
  std::map<std::string, Family, std::less<>> families_;
};

}  // namespace wideep
