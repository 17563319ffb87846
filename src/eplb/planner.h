// The planner: loads in, plan out. Deterministic: the same input gives the same plan for any number
// of threads and on every rank, so that no plan is ever broadcast.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"
#include "config/balancer_config.h"
#include "eplb/statistics.h"
#include "eplb/types.h"

namespace wideep::eplb {

using wideep::Algorithm;
using wideep::algorithm_name;
using wideep::parse_algorithm;

struct PlanOptions {
  Algorithm algorithm = Algorithm::kRecourse;
  int num_slots = 0;
  int ep_size = 0;
  int num_nodes = 1;   // experts are balanced over this many nodes first, then over their ranks
  int num_groups = 1;  // expert groups (DeepSeek-V3: 8), kept on one node where nodes divide them
  double alpha = 0.8;  // kCooccurrence: share of a rank that is filled by affinity
  uint64_t seed = 0;   // of the search over recorded batches
  int threads = 0;     // 0: all cores
  int max_transfers = -1;  // from a previous plan: slots of a layer that may receive an expert
                           // which their rank did not hold; -1: any number
  int64_t expert_bytes = 44'040'192;    // one expert of one layer: 3 x 7168 x 2048 in FP8
  std::function<void()> on_layer_done;  // called from any thread
};

// What to plan for: a load and, where they were recorded, the batches that it is the sum of.
struct Workload {
  Workload() = default;
  Workload(Load total) : load(std::move(total)) {}  // NOLINT: a load is a workload without batches

  Load load;
  // Same layers and experts as load. kRecourse judges its plan by the best split of these.
  std::vector<Load> batches;
  // Same layers and experts; kCooccurrence needs it.
  std::optional<Cooccurrence> cooccurrence;
};

struct LayerPlanReport {
  int layer = 0;
  double even = 1;     // max/mean of rank tokens, replicas sharing evenly
  double optimal = 1;  // the same with the best split
  double batches = 1;  // mean over the recorded batches, each with its best split; 1: none recorded
  double lower_bound = 1;  // no plan with these slots and ranks has a smaller `even`
  int duplicates = 0;      // slots wasted on a second copy of an expert on one rank
  int components = 1;      // parts of the rank graph that no shared expert joins
  int transfers = 0;       // slots whose expert was not on that rank in the previous plan
  int64_t bytes = 0;       // transfers x expert_bytes
};

struct PlanResult {
  Plan plan;
  std::vector<LayerPlanReport> layers;
};

// scenarios: further workloads (same layers and experts), each as important as the first; the plan
// is good for all of them. previous: a plan with the same layers, slots and experts; the new one is
// made from it by transfers (kRecourse and kBalanced; the baselines ignore it, as published).
// kInvalidInput names the two numbers that do not fit.
Result<PlanResult> make_plan(const Workload& workload, const PlanOptions& options,
                             const std::vector<Workload>& scenarios = {},
                             const Plan* previous = nullptr);

}  // namespace wideep::eplb
