#include "kernels/replica_choice.h"

#include "kernels/split_steps.h"

namespace wideep::kernels {
ReplicaTables ReplicaTables::of(const ReplicaShape& shape) {
  ReplicaTables tables;
  const auto take = [&](int& offset, int count) {
    offset = tables.size;
    tables.size += count;
  };
  take(tables.start, shape.num_experts + 1);
  take(tables.slots, shape.num_slots);
  take(tables.quota_ends, shape.num_slots);
  take(tables.home, shape.num_experts);
  take(tables.entry_place, shape.num_slots);
  take(tables.entry_begin, shape.num_ranks + 1);
  take(tables.entry_rank, shape.num_slots);
  take(tables.entry_shared, shape.num_slots);
  take(tables.entry_ranks, shape.num_slots * shape.rank_words());
  take(tables.shared_begin, shape.num_slots + 1);
  take(tables.shared_entries, shape.num_slots);
  take(tables.component, shape.num_ranks);
  take(tables.component_ranks, shape.num_ranks);
  tables.size = (tables.size + 3) / 4 * 4;
  return tables;
}

int64_t split_bytes(const ReplicaShape& shape) {
  return static_cast<int64_t>(sizeof(int32_t)) *
         (ReplicaTables::of(shape).size + SplitScratch::size(shape));
}

}  // namespace wideep::kernels
