// The load report: how uneven the tokens of ranks are in each layer, as recorded and as a plan
// would have made them. The numbers are TensorRT-LLM's: each is computed for one iteration, then
// averaged over the iterations of the window.
#pragma once

#include <optional>
#include <vector>

#include "base/status.h"
#include "eplb/projection.h"
#include "eplb/statistics.h"
#include "eplb/types.h"

namespace wideep::eplb {

struct LoadRow {
  int layer = 0;
  double mean = 0;             // tokens of a place
  double std = 0;              // sample standard deviation over places (ddof 1); 0 for one place
  double imbalance_ratio = 0;  // (max - mean) / mean; 0 where the mean is 0
};

struct LoadTable {
  std::vector<LoadRow> rows;  // one a layer
  LoadRow average;            // unweighted mean of each column over the rows; layer is -1
};

// O(size of loads).
LoadTable load_table(const PlaceLoads& loads);

// Tokens of each place, averaged over the iterations: [num_layers, num_places].
std::vector<double> average_tokens(const PlaceLoads& loads);

// One way of placing the recorded tokens.
struct LoadView {
  int num_ranks = 0;
  int num_slots = 0;   // experts where there is no plan
  int num_places = 0;  // ranks, or slots with ReportOptions::per_expert
  LoadTable table;
  std::vector<double> tokens = {};  // [num_layers, num_places] averaged over the iterations

  std::span<const double> row(int layer_index) const {
    return {tokens.data() + static_cast<int64_t>(layer_index) * num_places,
            static_cast<size_t>(num_places)};
  }
};

struct LoadReport {
  int num_experts = 0;
  int top_k = 0;
  int iter_start = 0;  // half-open window
  int iter_stop = 0;
  bool per_expert = false;
  std::vector<int> layers;
  // recorded is absent only beside a projection, where the recorded EP size does not divide the
  // columns.
  std::optional<LoadView> recorded = {};
  std::optional<LoadView> projected = {};   // replicas share evenly
  std::optional<LoadView> best_split = {};  // each iteration split as well as the plan allows

  // What the table of the report shows.
  const LoadView& main() const { return projected ? *projected : *recorded; }
};

struct ReportOptions {
  // EP size of the plan, or of the recorded view where there is no plan; 0: the statistics' ranks.
  int ep_size = 0;
  bool per_expert = false;  // one place an expert (a slot with a plan) instead of one a rank
  const Plan* plan = nullptr;
  // Counts of slots, recorded beside `statistics` while a balancer was active: what the view as
  // recorded shows. Same iterations.
  const Statistics* slots = nullptr;
};

// kInvalidInput as recorded_loads and projected_loads.
Result<LoadReport> make_load_report(const Statistics& statistics, const ReportOptions& options);

}  // namespace wideep::eplb
