// The planner: loads in, plan out. Deterministic: the same input gives the same plan for any number
// of threads and on every rank.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "eplb/trace.h"
#include "eplb/types.h"

namespace wideep::eplb {

enum class Algorithm {
  kRecourse,      // balanced, and replicas placed so that every batch can be balanced (default)
  kBalanced,      // balanced for the even split only
  kTensorRtLlm,   // baseline: TensorRT-LLM's published greedy
  kDeepSeek,      // baseline: DeepSeek's EPLB, hierarchical where nodes divide groups
  kCooccurrence,  // TensorRT-LLM's co-occurrence variant: fewer destination ranks a token
};

// Accepts the names of --algorithm; kInvalidInput names the nearest.
Result<Algorithm> parse_algorithm(std::string_view name);
std::string_view algorithm_name(Algorithm algorithm);

struct PlanOptions {
  Algorithm algorithm = Algorithm::kRecourse;
  int num_slots = 0;
  int ep_size = 0;
  int num_nodes = 1;       // ranks are split into this many nodes, balanced first
  int num_groups = 1;      // expert groups (DeepSeek: 8), kept on one node where nodes divide them
  double alpha = 0.8;      // kCooccurrence: share of a rank that is filled by affinity
  uint64_t seed = 0;       // of the perturbations of the search
  int threads = 0;         // 0: all cores; does not change the plan
  int max_transfers = -1;  // with `previous`: at most so many slots of a layer change expert by a
                           // copy from another rank; -1: as many as it takes
  int64_t expert_bytes = 44'040'192;    // of one layer's expert: 3 x 7168 x 2048 in FP8
  std::function<void()> on_layer_done;  // called from any thread
};

struct LayerPlanReport {
  int layer = 0;
  double even = 1;         // max/mean of rank tokens, replicas sharing evenly
  double optimal = 1;      // the same with the best split
  double lower_bound = 1;  // no plan with these slots and ranks has a smaller max/mean
  int duplicates = 0;      // slots wasted on a second copy of an expert on one rank
  int components = 1;      // parts of the rank graph that no shared expert joins
  int transfers = 0;       // slots whose new expert was not on that rank before
  int64_t bytes = 0;       // transfers x expert_bytes
};

struct PlanResult {
  Plan plan;
  std::vector<LayerPlanReport> layers;
};

// load: what to balance. scenarios: further loads (same layers and experts); the plan is good for
// all of them. previous: start from this plan and move as little as possible. kInvalidInput where
// sizes do not fit (slots % ep_size, slots < experts, more replicas than ranks, ...).
Result<PlanResult> make_plan(const Load& load, const PlanOptions& options,
                             const std::vector<Load>& scenarios = {},
                             const Plan* previous = nullptr);

}  // namespace wideep::eplb
