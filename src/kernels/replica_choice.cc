#include "kernels/replica_choice.h"

#include "kernels/split_steps.h"

namespace wideep::kernels {
ReplicaTables ReplicaTables::of(const ReplicaShape& shape) {
  ReplicaTables tables;
  tables.slots_per_rank = shape.num_slots / shape.num_ranks;
  const auto take = [&](int& offset, int count) {
    offset = tables.size;
    tables.size += count;
  };
  take(tables.start, shape.num_experts + 1);
  take(tables.slots, shape.num_slots);
  take(tables.quota_ends, shape.num_slots);
  take(tables.copies, shape.num_experts);
  take(tables.place_rank, shape.num_slots);
  take(tables.place_expert, shape.num_slots);
  take(tables.place_ranks, shape.num_slots * shape.rank_words());
  take(tables.rank_places, shape.num_slots);
  take(tables.rank_shared, shape.num_ranks);
  take(tables.order, shape.num_ranks);
  take(tables.part_begin, shape.num_ranks);
  take(tables.part_end, shape.num_ranks);
  take(tables.give_begin, shape.num_slots);
  take(tables.give_end, shape.num_slots);
  tables.size = (tables.size + 3) / 4 * 4;
  return tables;
}

int64_t split_bytes(const ReplicaShape& shape) {
  return static_cast<int64_t>(sizeof(int32_t)) *
         (ReplicaTables::of(shape).size + SplitScratch::size(shape));
}

}  // namespace wideep::kernels
