#include "alltoall/batch_layout.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/permute.h"

namespace wideep::alltoall {

BatchLayout::BatchLayout(int rank, int num_ranks, const GroupShape& shape)
    : rank_(rank),
      num_ranks_(num_ranks),
      num_slots_(shape.num_slots),
      top_k_(shape.top_k),
      slots_per_rank_(shape.num_slots / num_ranks),
      own_counts_(static_cast<size_t>(shape.num_slots)),
      pair_begin_(static_cast<size_t>(shape.num_slots) + 1),
      offsets_(static_cast<size_t>(slots_per_rank_) + 1),
      first_rows_(static_cast<size_t>(shape.num_slots)),
      own_first_rows_(static_cast<size_t>(shape.num_slots)) {}

void BatchLayout::sort_pairs(Stream& stream, const Routing& routing) {
  CHECK_EQ(std::ssize(routing.slots), routing.num_tokens * top_k_);
  slots_ = routing.slots;
  CHECK(std::ranges::all_of(slots_, [&](int32_t slot) { return slot < num_slots_; }));
  pairs_.resize(slots_.size());
  sorted_.resize(slots_.size());
  kernels::PermutationParams permutation;
  permutation.ids = slots_;
  permutation.num_groups = num_slots_;
  permutation.offsets = pair_begin_.data();
  permutation.rows = sorted_.data();
  permutation.pairs = pairs_.data();
  kernels::make_permutation(stream, permutation);
  for (int slot = 0; slot < num_slots_; ++slot) {
    own_counts_[slot] = pair_begin_[slot + 1] - pair_begin_[slot];
  }
}

void BatchLayout::place(std::span<const int32_t> counts) {
  CHECK_EQ(std::ssize(counts), int64_t{num_ranks_} * num_slots_);
  int row = 0;  // on the rank of the slot
  for (int slot = 0; slot < num_slots_; ++slot) {
    const int local_slot = slot % slots_per_rank_;
    if (local_slot == 0) row = 0;
    const bool is_own = rank_of(slot) == rank_;
    if (is_own) offsets_[local_slot] = row;
    for (int source = 0; source < num_ranks_; ++source) {
      if (is_own) first_rows_[source * slots_per_rank_ + local_slot] = row;
      if (source == rank_) own_first_rows_[slot] = row;
      row += counts[int64_t{source} * num_slots_ + slot];
    }
    if (is_own) offsets_[local_slot + 1] = row;
  }
}

}  // namespace wideep::alltoall
