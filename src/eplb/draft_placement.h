// A placement under construction: which expert each slot of a layer holds and what that gives each
// rank when replicas share evenly. The planner's searches all work on this.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

// Copies of each expert, at most max_copies each: every spare slot goes to the expert with the most
// tokens a copy, which makes the largest replica as small as possible (exchange argument; the
// replication step of DeepSeek's EPLB with a cap). Ties to the smaller id. Needs num_slots in
// [num_experts, num_experts x max_copies]. O(num_slots log num_experts).
std::vector<int> choose_replicas(std::span<const double> tokens, int num_slots, int max_copies);

class DraftPlacement {
 public:
  static constexpr int kEmpty = -1;

  // Empty slots, `replicas` copies of each expert to place. tokens: [num_experts]; all zero counts
  // as all equal, so that a layer without traffic is spread evenly.
  DraftPlacement(const Shape& shape, std::span<const int64_t> tokens, std::vector<int> replicas);
  // The placement `slots`.
  static DraftPlacement of(const Shape& shape, std::span<const int64_t> tokens,
                           std::span<const int> slots);

  const Shape& shape() const { return shape_; }
  const std::vector<int>& slots() const { return slots_; }
  int expert(int slot) const { return slots_[slot]; }
  // Tokens of one replica of the expert.
  double share(int expert) const { return tokens_[expert] / replicas_[expert]; }
  double tokens(int expert) const { return tokens_[expert]; }
  int replicas(int expert) const { return replicas_[expert]; }
  // Slots of the rank that hold the expert.
  int held(int rank, int expert) const {
    return held_[int64_t{rank} * shape_.num_experts + expert];
  }
  double rank_tokens(int rank) const { return rank_tokens_[rank]; }
  double mean_tokens() const { return mean_tokens_; }
  int num_filled(int rank) const { return num_filled_[rank]; }
  bool is_full(int rank) const { return num_filled_[rank] == shape_.slots_per_rank(); }
  int first_slot(int rank) const { return rank * shape_.slots_per_rank(); }

  int fullest_rank() const;
  double max_over_mean() const { return rank_tokens_[fullest_rank()] / mean_tokens_; }
  // The lightest rank with a free slot that does not hold the expert, or -1.
  int lightest_free_rank(int expert) const;

  // Puts a copy of the expert into the rank's first free slot.
  void add(int rank, int expert);
  void swap(int slot_a, int slot_b);
  // Puts a further copy of `expert` in the place of one of a replicated expert; shares of both
  // change.
  void overwrite(int slot, int expert);
  // Places what is left to place of each expert: largest replicas first, each on the lightest rank
  // that lacks the expert. Never puts an expert on a rank twice.
  void add_rest();
  // Puts each rank's slots in order: largest share first, then by expert.
  void sort_slots();

 private:
  void make_room(int expert);

  Shape shape_;
  std::vector<double> tokens_;       // [num_experts]
  std::vector<int> replicas_;        // [num_experts]
  std::vector<int> slots_;           // [num_slots] expert, or kEmpty
  std::vector<uint8_t> held_;        // [num_ranks, num_experts] copies
  std::vector<double> rank_tokens_;  // [num_ranks]
  std::vector<int> num_filled_;      // [num_ranks]
  double mean_tokens_ = 0;           // of a rank
};

}  // namespace wideep::eplb
