// The experts of a rank on a GPU: rows to the order of their experts, two grouped products, and
// back. The host never learns how many rows an expert has, so that all of it can be captured in a
// graph.
#pragma once

#include <cstdint>

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

}  // namespace wideep::moe
