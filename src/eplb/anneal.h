// Simulated annealing over placements, for what the constructive planners leave: layers whose
// replicas do not pack, and recorded batches.
//
// Batches: real ones are correlated (a rank's tokens come from one text) and vary far more than
// independent draws from the mean load. So the placement is judged by the average of the best split
// over the batches themselves (sample average approximation).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/draft_placement.h"

namespace wideep::eplb {

// One layer's recorded batches, each [num_experts] tokens.
using Batches = std::vector<std::vector<int64_t>>;

// Mean over the batches of max/mean of the rank tokens under the best split; a batch without tokens
// counts as 1, as does an empty list.
double mean_best_split(const Shape& shape, std::span<const int> slots, const Batches& batches);

struct AnnealOptions {
  uint64_t seed = 0;
  // What is minimised: mean best split of the batches + even_weight x even max/mean of the whole
  // load.
  double even_weight = 1;
  bool keep_connected = false;  // never split the rank graph further than `start` has it
};

// The best slots seen, never worse than `start` in what is minimised; ends early where they are as
// good as perfect. Steps: exchange two slots, or give a replica's slot to another expert; a step is
// dropped as soon as its sum over the batches cannot win. The number of steps falls with num_slots
// x batches, to bound the time: seconds a layer with batches, about ten milliseconds without.
// Deterministic for a seed.
std::vector<int> anneal_slots(const DraftPlacement& start, const Batches& batches,
                              const AnnealOptions& options);

}  // namespace wideep::eplb
