// The experts of a rank on a GPU: rows to the order of their experts, two grouped products, and
// back; or the products alone, where the all-to-all has put the rows in order. The host never
// learns how many rows an expert has, so that all of it can be captured in a graph.
#pragma once

#include <cstdint>

#include "alltoall/alltoall.h"
#include "moe/moe_layer.h"

namespace wideep::moe {

struct DeviceExpertsParams {
  MoeShape shape;
  int first_expert = 0;
  ExpertWeights experts;  // those from first_expert on, side by side; of FP8 or not
  MoeInput input;
  MatrixView y;  // [tokens, hidden] the sum over these experts
  LayerProfile* profile = nullptr;
};
void run_experts_on_device(Stream& stream, Arena& arena, const DeviceExpertsParams& params);

// Most that the above takes of the arena.
int64_t device_experts_scratch_bytes(const MoeShape& shape, int num_experts, int64_t max_rows);

// received.outputs = what the slots make of received.rows, which lie by slot from multiples of
// kernels::kGroupAlignment on, or masked with group_rows for each slot. FP8 slots take FP8 rows,
// BF16 slots BF16 ones.
struct DeviceSlotsParams {
  MoeShape shape;
  ExpertWeights slots;
  alltoall::Received received;
  int64_t group_rows = 0;     // 0: by slot
  int64_t expected_rows = 0;  // of a slot in use, about; masked only
};
void run_slots_on_device(Stream& stream, Arena& arena, const DeviceSlotsParams& params);

// The same for so many rows of output, with those of all slots.
int64_t device_slots_scratch_bytes(const MoeShape& shape, int64_t rows);

}  // namespace wideep::moe
