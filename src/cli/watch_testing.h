// A job's metrics as it would write them.
#pragma once

#include <memory>
#include <string>

#include "base/metrics.h"
#include "engine/metric_names.h"

namespace wideep::cli {

class FakeJob {
 public:
  FakeJob() {
    set(engine::metric::kRunning, 1);
    count(engine::metric::kIterations, 0);
    set(engine::metric::kHeartbeat, 1000);
  }

  void set(std::string_view name, double value, const MetricLabels& labels = {}) {
    registry_->gauge(name, "G.", labels).set(value);
  }
  void count(std::string_view name, double value, const MetricLabels& labels = {}) {
    registry_->counter(name, "C.", labels).add(value);
  }
  void set_layer(int layer, double now, double average, double in_order) {
    const MetricLabels labels = {{"layer", std::to_string(layer)}};
    set(engine::metric::kImbalance, now, labels);
    set(engine::metric::kImbalanceAverage, average, labels);
    set(engine::metric::kImbalanceInOrder, in_order, labels);
  }
  // The layer was planned anew.
  void update_layer(int layer, double before, double after, int transfers) {
    const MetricLabels labels = {{"layer", std::to_string(layer)}};
    set(engine::metric::kBefore, before, labels);
    set(engine::metric::kAfter, after, labels);
    count(engine::metric::kTransfers, transfers, labels);
    count(engine::metric::kTransferBytes, 1000.0 * transfers);
    count(engine::metric::kCommits, 1);
    count(engine::metric::kPlans, 1, {{"outcome", "moved"}});
    count(engine::metric::kPlannerSeconds, 0.25);
  }

  // An iteration that ends at `time`.
  void iterate(double time) {
    count(engine::metric::kIterations, 1);
    set(engine::metric::kHeartbeat, time);
    set(engine::metric::kLastIteration, time);
  }

  std::string text() const { return registry_->text(); }

 private:
  std::unique_ptr<MetricsRegistry> registry_ = std::make_unique<MetricsRegistry>();
};

}  // namespace wideep::cli
