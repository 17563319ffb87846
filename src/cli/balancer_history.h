// What the balancer did over the iterations of a run: for the reports of `wideep bench` and for the
// lines of print_iter_log.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/replica.h"

namespace wideep::cli {

class BalancerHistory {
 public:
  // Iterations without backend WideEP are left out.
  void add(const engine::IterationInfo& info);
  void clear() { iterations_.clear(); }
  bool empty() const { return iterations_.empty(); }

  // {ranks, slots, layers: [ids], summary: {...}, iterations: {number: [...], tokens: [...],
  // ..., imbalance_ratio: [layers][iterations], imbalance_ratio_in_order: the same},
  // updates: [{iteration, layer, before, after, transfers}]}. Not of an empty history.
  OrderedJson json() const;
  // A table of the layers and a line of what it took. Not of an empty history.
  std::string text() const;

 private:
  struct Iteration {
    int64_t number = 0;
    int64_t tokens = 0;
    moe::IterationReport report;
  };
  struct LayerSummary {
    int layer = 0;
    double mean = 0;  // imbalance ratios over the iterations
    double worst = 0;
    double in_order = 0;
    int64_t transfers = 0;
  };
  struct Totals {
    int64_t transfers = 0;
    int64_t bytes = 0;
    int64_t commits = 0;
    int64_t moved = 0;  // turns of layers
    int64_t kept = 0;
    double planner_seconds = 0;
    double wait_seconds = 0;
  };

  std::vector<LayerSummary> layers() const;
  Totals totals() const;

  std::vector<Iteration> iterations_;
};

// "iteration 7: 96 sequences, ..." without a newline.
std::string iteration_line(const engine::IterationInfo& info);

}  // namespace wideep::cli
