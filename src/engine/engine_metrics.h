// The engine's metrics: what iterations report, as counters and gauges (metric_names.h,
// docs/metrics.md).
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/metrics.h"
#include "engine/replica.h"

namespace wideep::engine {

class EngineMetrics {
 public:
  // The registry outlives this. The job is running from now on.
  explicit EngineMetrics(MetricsRegistry& registry);

  // At the end of an iteration, on the rank whose metrics these are. `now`: s since 1970.
  void on_iteration(const IterationInfo& info, double now);

  // The job has ended, and no request is left.
  void on_end();

 private:
  struct Layer {
    Gauge& imbalance;
    Gauge& average;
    Gauge& in_order;
    Counter& transfers;
    bool has_average = false;
  };

  void on_balancer(const moe::IterationReport& report);
  void on_load(const moe::LayerReport& load);
  void on_update(const moe::LayerTurn& turn);
  Layer& layer(int number);

  MetricsRegistry& registry_;
  Gauge& running_;
  Counter& iterations_;
  Gauge& last_iteration_;
  Counter& tokens_;
  Gauge& requests_running_;
  Gauge& requests_waiting_;
  Gauge& free_pages_;
  std::map<int, Layer> layers_;
};

}  // namespace wideep::engine
