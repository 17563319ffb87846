// Prometheus' text exposition format 0.0.4, which its servers scrape: metrics as data, written and
// read. docs/metrics.md lists wideep's metrics.
//
//   # HELP wideep_iterations_total Iterations of the engine.
//   # TYPE wideep_iterations_total counter
//   wideep_iterations_total 1027
//   wideep_eplb_transfers_total{layer="3"} 12 1395066363000
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace wideep {

// (name, value), in the order in which they are written; names differ.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

enum class MetricType { kUntyped, kCounter, kGauge, kHistogram, kSummary };

struct MetricSample {
  std::string name;  // the family's; of histograms and summaries with _bucket, _sum or _count
  MetricLabels labels;
  double value = 0;
  std::optional<int64_t> timestamp_ms = {};  // since 1970; scrapers take their own where it lacks
};

struct MetricFamily {
  std::string name;
  std::string help;
  MetricType type = MetricType::kUntyped;
  std::vector<MetricSample> samples;
};

// [a-zA-Z_:][a-zA-Z0-9_:]*, and the same without ':' for labels.
bool is_metric_name(std::string_view name);
bool is_label_name(std::string_view name);

// The families in the given order, HELP (unless empty) and TYPE before the samples of each.
std::string metrics_text(std::span<const MetricFamily> families);

// The families of a file in its order. kInvalidInput "name:line: what: rule" for the first line
// that breaks the format: names, escapes, values, a sample twice, a family in two places, TYPE
// after samples, a last line without its end (a file that is being written). O(bytes log lines).
Result<std::vector<MetricFamily>> parse_metrics(std::string_view text, const std::string& name);

// The family of that name, or nullptr.
const MetricFamily* find_family(std::span<const MetricFamily> families, std::string_view name);

}  // namespace wideep
