#include "engine/engine_metrics.h"

#include "engine/metric_names.h"

namespace wideep::engine {
namespace {

// What a new iteration counts in the averages of imbalance ratios.
constexpr double kNewShare = 1.0 / 16;

MetricLabels layer_label(int layer) {
  return {{"layer", std::to_string(layer)}};
}

}  // namespace

EngineMetrics::EngineMetrics(MetricsRegistry& registry)
    : registry_(registry),
      running_(registry.gauge(metric::kRunning, "1 while the job runs, 0 once it has ended.")),
      iterations_(registry.counter(metric::kIterations, "Iterations of the engine.")),
      last_iteration_(registry.gauge(metric::kLastIteration,
                                     "When the last iteration ended, in seconds since 1970.")),
      tokens_(registry.counter(metric::kTokens,
                               "Tokens that went through the model, of prompts and answers.")),
      requests_running_(registry.gauge(
          metric::kRequestsRunning, "Requests in the last batch of the first attention-DP rank.")),
      requests_waiting_(registry.gauge(metric::kRequestsWaiting,
                                       "Requests that wait for their first batch there.")),
      free_pages_(registry.gauge(metric::kFreePages,
                                 "Pages of the KV cache there that a new request could take.")) {
  running_.set(1);
}

void EngineMetrics::on_iteration(const IterationInfo& info, double now) {
  iterations_.add();
  last_iteration_.set(now);
  tokens_.add(static_cast<double>(info.all_tokens));
  requests_running_.set(info.num_sequences);
  requests_waiting_.set(info.num_waiting);
  free_pages_.set(info.num_free_pages);
  if (info.balancer != nullptr) on_balancer(*info.balancer);
}

void EngineMetrics::on_end() {
  running_.set(0);
  requests_running_.set(0);
  requests_waiting_.set(0);
}

void EngineMetrics::on_balancer(const moe::IterationReport& report) {
  registry_.gauge(metric::kRanks, "EP size.").set(report.num_ranks);
  registry_.gauge(metric::kSlots, "Slots of a layer over all ranks.").set(report.num_slots);
  registry_.counter(metric::kTransferBytes, "Bytes of weights that went from rank to rank.")
      .add(static_cast<double>(report.migration.bytes));
  registry_.counter(metric::kCommits, "Placements that came into use.")
      .add(report.migration.commits);
  registry_
      .counter(metric::kPlannerSeconds,
               "Time that the planner's thread worked; the model does not wait for it.")
      .add(report.planner_seconds);
  registry_
      .counter(metric::kWaitSeconds,
               "Time that iterations spent on the balancer before the model ran.")
      .add(report.wait_seconds);
  const auto plans = [this](const char* outcome) -> Counter& {
    return registry_.counter(metric::kPlans, "Turns of layers, by what they came to.",
                             {{"outcome", outcome}});
  };
  Counter& moved = plans("moved");
  Counter& kept = plans("kept");
  for (const moe::LayerTurn& turn : report.turns) {
    (turn.update.moved ? moved : kept).add();
    if (turn.update.moved) on_update(turn);
  }
  for (const moe::LayerReport& load : report.layers) on_load(load);
}

void EngineMetrics::on_load(const moe::LayerReport& load) {
  Layer& of_layer = layer(load.layer);
  of_layer.imbalance.set(load.imbalance);
  of_layer.in_order.set(load.unbalanced);
  // The first one counts whole: an average that crawls up from 0 would say that all is well.
  const double before = of_layer.has_average ? of_layer.average.value() : load.imbalance;
  of_layer.average.set(before + kNewShare * (load.imbalance - before));
  of_layer.has_average = true;
}

void EngineMetrics::on_update(const moe::LayerTurn& turn) {
  layer(turn.layer).transfers.add(turn.update.transfers);
  // Made at a layer's first update, so that a layer without one shows none.
  registry_
      .gauge(metric::kBefore, "Imbalance ratio of the last batches with the placement before.",
             layer_label(turn.layer))
      .set(turn.update.before - 1);
  registry_
      .gauge(metric::kAfter, "Imbalance ratio of the same batches with the new placement.",
             layer_label(turn.layer))
      .set(turn.update.after - 1);
}

EngineMetrics::Layer& EngineMetrics::layer(int number) {
  const auto found = layers_.find(number);
  if (found != layers_.end()) return found->second;
  const MetricLabels labels = layer_label(number);
  Layer made = {
      registry_.gauge(metric::kImbalance, "Imbalance ratio of the last iteration.", labels),
      registry_.gauge(metric::kImbalanceAverage,
                      "Imbalance ratio, averaged over about the last 16 iterations.", labels),
      registry_.gauge(metric::kImbalanceInOrder,
                      "Imbalance ratio of the last iteration had each expert been there once, in "
                      "order.",
                      labels),
      registry_.counter(metric::kTransfers,
                        "Experts whose new placements wanted them from another rank.", labels)};
  return layers_.emplace(number, made).first->second;
}

}  // namespace wideep::engine
