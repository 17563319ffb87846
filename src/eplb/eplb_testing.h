// Random placements and loads for the tests of this folder.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Every expert has a slot; the spare slots hold random experts. Duplicates on a rank may occur.
inline std::vector<int> random_slots(Random& random, const Shape& shape) {
  std::vector<int> slots(shape.num_slots);
  std::iota(slots.begin(), slots.begin() + shape.num_experts, 0);
  for (int i = shape.num_experts; i < shape.num_slots; ++i) {
    slots[i] = static_cast<int>(random.below(shape.num_experts));
  }
  shuffle(random, std::span(slots));
  return slots;
}

// Skewed like real loads: a few hot experts, many cold ones, some without a token.
inline std::vector<int64_t> random_tokens(Random& random, int num_experts, int64_t scale = 1000) {
  std::vector<int64_t> tokens(num_experts);
  for (int64_t& t : tokens) {
    const double u = random.uniform();
    t = random.below(8) == 0 ? 0 : static_cast<int64_t>(static_cast<double>(scale) * u * u * u * u);
  }
  return tokens;
}

// experts <= slots, slots % ranks == 0.
inline Shape random_shape(Random& random, int max_ranks, int max_slots_per_rank) {
  Shape shape;
  shape.num_ranks = 1 + static_cast<int>(random.below(max_ranks));
  shape.num_slots = shape.num_ranks * (1 + static_cast<int>(random.below(max_slots_per_rank)));
  shape.num_experts = 1 + static_cast<int>(random.below(shape.num_slots));
  return shape;
}

}  // namespace wideep::eplb
