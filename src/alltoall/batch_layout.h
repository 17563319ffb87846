// Where each row of a batch goes, worked out on every rank from the same counts. Internal to
// alltoall.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "alltoall/alltoall.h"

namespace wideep::alltoall {

// Received rows are ordered by (slot, source rank, token, k); so a row's place is the place of its
// source rank's first row of the slot, and its number among them.
class BatchLayout {
 public:
  BatchLayout(int rank, int num_ranks, const GroupShape& shape);

  int slots_per_rank() const { return slots_per_rank_; }
  int rank_of(int slot) const { return slot / slots_per_rank_; }

  // This rank's pairs (token x top_k + k) sorted by slot. CHECKs that slots exist.
  void sort_pairs(Stream& stream, const Routing& routing);
  // After sort_pairs: the rows that this rank sends to each slot, [num_slots].
  std::span<const int32_t> own_counts() const { return own_counts_; }
  // After sort_pairs: pairs in the order of slots, those of slot s from pair_begin()[s] on.
  std::span<const int> pairs() const { return pairs_; }
  std::span<const int> pair_begin() const { return pair_begin_; }  // [num_slots + 1]

  // counts: [num_ranks, num_slots], of all ranks.
  void place(std::span<const int32_t> counts);
  // After place: rows of this rank's slots, [slots_per_rank + 1].
  std::span<const int> offsets() const { return offsets_; }
  int num_rows() const { return offsets_.back(); }
  // First row of what `source` sends to this rank's slot `local_slot`.
  int first_row(int source, int local_slot) const {
    return first_rows_[int64_t{source} * slots_per_rank_ + local_slot];
  }
  // The row, on the rank of its slot, of one of this rank's pairs; -1 where it has no slot.
  int row_of_pair(int pair) const {
    const int slot = slots_[pair];
    return slot < 0 ? -1 : own_first_rows_[slot] + sorted_[pair] - pair_begin_[slot];
  }

 private:
  int rank_;
  int num_ranks_;
  int num_slots_;
  int top_k_;
  int slots_per_rank_;
  std::span<const int32_t> slots_;  // of the routing
  std::vector<int32_t> own_counts_;
  std::vector<int> pair_begin_;
  std::vector<int> pairs_;
  std::vector<int> sorted_;  // [num_tokens * top_k] place of each pair in pairs_
  std::vector<int> offsets_;
  std::vector<int> first_rows_;      // [num_ranks, slots_per_rank]
  std::vector<int> own_first_rows_;  // [num_slots] of this rank's rows, on the slot's rank
};

}  // namespace wideep::alltoall
