// How good a plan is for a load: the numbers of `wideep eplb evaluate`.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

struct QualityOptions {
  int ep_size = 0;
  // > 0: ratios are averaged over sampled batches (sampler.h) of so many tokens a rank, top_k
  // experts each; 0: of the load itself.
  int64_t tokens_per_rank = 0;
  int top_k = 8;
  int num_batches = 64;
  uint64_t seed = 0;
  int threads = 0;  // 0: all cores; does not change the result
};

// Ratios are max/mean of the tokens of EP ranks; 1 is perfect.
struct LayerQuality {
  int layer = 0;
  double even = 1;     // replicas share evenly
  double optimal = 1;  // each batch with its best split
  double lower_bound =
      1;               // no plan with these slots and ranks has a smaller `even` on the whole load
  int duplicates = 0;  // slots wasted on a second copy of an expert on one rank
  int components = 1;  // parts of the rank graph that no shared expert joins
};

struct PlanQuality {
  double mean_even = 1;  // over the layers
  double worst_even = 1;
  double mean_optimal = 1;
  double worst_optimal = 1;
  std::vector<LayerQuality> layers;  // those of the load
};

// kInvalidInput where the plan lacks a layer of the load, has other experts, or its slots are not
// divisible by ep_size.
Result<PlanQuality> evaluate_plan(const Load& load, const Plan& plan,
                                  const QualityOptions& options);

}  // namespace wideep::eplb
