// The plain data of the balancer. An expert is the model's, a slot is a weight container of the
// engine; slot g lives on EP rank g / slots_per_rank. Everything is row-major; shapes stand beside
// the arrays.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"

namespace wideep::eplb {

// Tokens that were routed to each expert, summed over ranks and iterations. A token counts once for
// each of its top_k experts.
struct Load {
  int num_experts = 0;
  int top_k = 0;                // experts a token; 0 where the source does not say
  std::vector<int> layers;      // [num_layers] decoder layer of each row, strictly ascending
  std::vector<int64_t> tokens;  // [num_layers, num_experts], >= 0

  int num_layers() const { return static_cast<int>(layers.size()); }
  std::span<const int64_t> row(int i) const {
    return {tokens.data() + static_cast<int64_t>(i) * num_experts,
            static_cast<size_t>(num_experts)};
  }
};

// Where the slots of one layer are.
struct Shape {
  int num_experts = 0;
  int num_slots = 0;  // divisible by num_ranks, >= num_experts
  int num_ranks = 0;  // EP size

  int slots_per_rank() const { return num_slots / num_ranks; }
  int rank_of(int slot) const { return slot / slots_per_rank(); }
};

// Slots that hold every expert once, as many on each rank, and `spares` more on each.
inline int slots_with_spares(int num_experts, int num_ranks, int spares) {
  return ((num_experts + num_ranks - 1) / num_ranks + spares) * num_ranks;
}

// A plan: for each layer, which expert each slot holds.
struct Plan {
  int num_experts = 0;
  int num_slots = 0;
  int layer_updates_per_iter =
      0;                    // 0: static; > 0: what the online balancer may change an iteration
  std::vector<int> layers;  // [num_layers] decoder layer of each row, strictly ascending
  std::vector<int> slots;   // [num_layers, num_slots] expert of each slot

  int num_layers() const { return static_cast<int>(layers.size()); }
  std::span<const int> row(int i) const {
    return {slots.data() + static_cast<int64_t>(i) * num_slots, static_cast<size_t>(num_slots)};
  }
  std::span<int> row(int i) {
    return {slots.data() + static_cast<int64_t>(i) * num_slots, static_cast<size_t>(num_slots)};
  }
  Shape shape(int num_ranks) const {
    CHECK(num_ranks > 0 && num_slots % num_ranks == 0);
    return {num_experts, num_slots, num_ranks};
  }
};

}  // namespace wideep::eplb
