// From recorded counts to the tokens of ranks: as they were recorded, or as they would have been
// with another plan.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "eplb/statistics.h"
#include "eplb/types.h"

namespace wideep::eplb {

// The slots of some layers on a number of ranks.
struct Placement {
  Shape shape;
  std::vector<int> layers = {};  // [num_layers]
  std::vector<int> slots = {};   // [num_layers, num_slots] expert of each slot

  std::span<const int> row(int layer_index) const {
    return {slots.data() + static_cast<int64_t>(layer_index) * shape.num_slots,
            static_cast<size_t>(shape.num_slots)};
  }
};

// Every expert once, in contiguous blocks. kInvalidInput where num_ranks does not divide
// num_experts.
Result<Placement> contiguous_placement(int num_experts, std::span<const int> layers, int num_ranks);

// What `plan` says of `layers`; its other layers are left out. kInvalidInput where it lacks one of
// them, is not of num_experts experts, or num_ranks does not divide its slots.
Result<Placement> plan_placement(const Plan& plan, int num_experts, std::span<const int> layers,
                                 int num_ranks);

// Where tokens are added up. An expert without a plan is a slot of its own.
enum class Place { kRank, kSlot };

// Tokens that each place received in each iteration and layer.
struct PlaceLoads {
  int num_ranks = 0;                // EP size of the view, also where places are slots
  int num_places = 0;               // ranks or slots
  int num_iterations = 0;           // >= 1
  std::vector<int> layers;          // [num_layers], as in the statistics
  std::vector<double> tokens = {};  // [num_iterations, num_layers, num_places]

  int num_layers() const { return static_cast<int>(layers.size()); }
  std::span<const double> row(int iteration_index, int layer_index) const {
    const int64_t row = static_cast<int64_t>(iteration_index) * num_layers() + layer_index;
    return {tokens.data() + row * num_places, static_cast<size_t>(num_places)};
  }
  std::span<double> row(int iteration_index, int layer_index) {
    const int64_t row = static_cast<int64_t>(iteration_index) * num_layers() + layer_index;
    return {tokens.data() + row * num_places, static_cast<size_t>(num_places)};
  }
};

// The counts as recorded: rank r holds the r-th contiguous block of columns (experts, or slots
// where a balancer was active). kInvalidInput where num_ranks does not divide the columns.
Result<PlaceLoads> recorded_loads(const Statistics& statistics, int num_ranks, Place place);

// How an expert's tokens are shared by its replicas.
enum class ReplicaSplit {
  kEven,  // every replica takes the same share: what round robin gives on average
  kBest,  // each iteration's exact best split (eplb/split.h): what per_batch gives
};

// The counts as they would have been with `plan` on num_ranks ranks; kInvalidInput as
// plan_placement. O(num_iterations num_layers num_slots) for kEven; a split for each iteration and
// layer for kBest.
Result<PlaceLoads> projected_loads(const Statistics& statistics, const Plan& plan, int num_ranks,
                                   Place place, ReplicaSplit split);

}  // namespace wideep::eplb
