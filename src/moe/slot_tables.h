// One layer's placement as a GPU's replica choice reads it (kernels/replica_choice.h).
#pragma once

#include <cstdint>
#include <span>

#include "eplb/types.h"
#include "kernels/replica_choice.h"

namespace wideep::moe {

inline kernels::ReplicaShape replica_shape(const eplb::Shape& shape) {
  return {shape.num_experts, shape.num_slots, shape.num_ranks};
}

// slots: [num_slots] expert of each slot; every expert needs one (CHECK). quotas: [num_slots], or
// empty for even ones. tables: [ReplicaTables::size], out; the same bytes for the same placement.
void write_slot_tables(const eplb::Shape& shape, std::span<const int> slots,
                       std::span<const int64_t> quotas, std::span<int32_t> tables);

}  // namespace wideep::moe
