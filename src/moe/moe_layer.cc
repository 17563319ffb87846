#include "moe/moe_layer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace wideep::moe {

void run_experts(Stream& stream, Arena& arena, const ExpertWeights& experts,
                 std::span<const int> offsets, ConstMatrixView x, MatrixView y) {
  if (x.rows == 0) return;
  const Arena::Scope scope(arena);
  const int intermediate = experts.down.front().in_features;
  const MatrixView gate_up = arena.matrix(x.rows, 2 * intermediate);
  kernels::grouped_linear(stream, {x, offsets, experts.gate_up, gate_up});
  const MatrixView activated = arena.matrix(x.rows, intermediate);
  kernels::silu_mul(stream, gate_up, activated);
  kernels::grouped_linear(stream, {activated, offsets, experts.down, y});
}

int64_t expert_scratch_bytes(int64_t rows, int intermediate_size) {
  return Arena::matrix_bytes(rows, 2 * intermediate_size) +
         Arena::matrix_bytes(rows, intermediate_size);
}

kernels::GroupedWeight grouped(std::span<const kernels::PackedWeight> weights) {
  const kernels::PackedWeight& first = weights.front();
  const kernels::GroupedWeight result = {first.data, first.dtype,
                                         static_cast<int>(std::ssize(weights)), first.out_features,
                                         first.in_features};
  CHECK(weights.back().data == first.data + (std::ssize(weights) - 1) * result.stride_bytes());
  return result;
}

int num_chunks(int64_t tokens, int64_t max_num_tokens) {
  return static_cast<int>(std::max<int64_t>(1, (tokens + max_num_tokens - 1) / max_num_tokens));
}

}  // namespace wideep::moe
