#include "moe/device_experts.h"

#include "kernels/elementwise.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/quantize.h"

namespace wideep::moe {
namespace {

using kernels::kGroupAlignment;

// Where the rows of a batch go.
struct Rows {
  std::span<int> offsets;  // [experts + 1]
  std::span<int> of_pair;  // [tokens * top_k] the row of each pair
  std::span<int> pairs;    // [bound] the pair of each row
};

Rows permute(Stream& stream, Arena& arena, const DeviceExpertsParams& params) {
  const int num_experts = static_cast<int>(std::ssize(params.experts.down));
  const int64_t num_pairs = params.input.x.rows * params.shape.top_k;
  Rows rows;
  rows.offsets = arena.take<int>(num_experts + 1);
  rows.of_pair = arena.take<int>(num_pairs);
  rows.pairs = arena.take<int>(kernels::max_permuted_rows(num_pairs, num_experts, kGroupAlignment));
  kernels::PermutationParams permutation;
  permutation.ids = params.input.all_ids(params.shape.top_k);
  permutation.group_begin = params.first_expert;
  permutation.num_groups = num_experts;
  permutation.offsets = rows.offsets.data();
  permutation.rows = rows.of_pair.data();
  permutation.pairs = rows.pairs.data();
  permutation.row_alignment = kGroupAlignment;
  kernels::make_permutation(stream, permutation);
  return rows;
}

kernels::QuantizedRows take_quantized(Arena& arena, int64_t rows, int64_t columns) {
  // Twice the arena's alignment is what they ask for.
  std::byte* memory =
      arena.take<std::byte>(kernels::quantized_bytes(rows, columns) + Arena::kAlignment).data();
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return kernels::quantized_rows(memory + (address % (2 * Arena::kAlignment)), rows, columns);
}

// The rows in order, as the first product takes them.
kernels::ScaledRows gather(Stream& stream, Arena& arena, const DeviceExpertsParams& params,
                           const Rows& rows) {
  const MoeInput& input = params.input;
  const int64_t bound = std::ssize(rows.pairs);
  const float* scales = params.shape.weight_scales_input ? input.weights : nullptr;
  if (params.experts.gate_up.front().dtype == DType::kF8E4M3) {
    const kernels::QuantizedRows x = take_quantized(arena, bound, params.shape.hidden_size);
    kernels::gather_quantize(stream,
                             {input.x, rows.pairs.data(), params.shape.top_k, scales, nullptr, x});
    return x;
  }
  const MatrixView x = arena.matrix(bound, params.shape.hidden_size, input.x.dtype);
  kernels::gather_rows(stream, {input.x, rows.pairs, params.shape.top_k, scales, x});
  return {x};
}

kernels::ScaledRows activate(Stream& stream, Arena& arena, const DeviceExpertsParams& params,
                             MatrixView gate_up) {
  const int64_t columns = params.shape.intermediate_size;
  if (params.experts.down.front().dtype == DType::kF8E4M3) {
    const kernels::QuantizedRows activated = take_quantized(arena, gate_up.rows, columns);
    kernels::silu_mul_quantize(stream, {gate_up, nullptr, activated});
    return activated;
  }
  const MatrixView activated = arena.matrix(gate_up.rows, columns, gate_up.dtype);
  kernels::silu_mul(stream, gate_up, activated);
  return {activated};
}

}  // namespace

void run_experts_on_device(Stream& stream, Arena& arena, const DeviceExpertsParams& params) {
  if (params.input.x.rows == 0) return;
  const Arena::Scope scope(arena);
  const MoeShape& shape = params.shape;
  const Rows rows = permute(stream, arena, params);
  const int64_t bound = std::ssize(rows.pairs);
  const DType dtype = params.input.x.dtype;

  const kernels::ScaledRows x = gather(stream, arena, params, rows);
  const MatrixView gate_up = arena.matrix(bound, int64_t{2} * shape.intermediate_size, dtype);
  const int* offsets = rows.offsets.data();
  kernels::grouped_gemm_contiguous(stream, {x, offsets, grouped(params.experts.gate_up), gate_up});
  const kernels::ScaledRows activated = activate(stream, arena, params, gate_up);
  const MatrixView down = arena.matrix(bound, shape.hidden_size, dtype);
  kernels::grouped_gemm_contiguous(stream,
                                   {activated, offsets, grouped(params.experts.down), down});

  kernels::CombineRowsParams combine;
  combine.x = down;
  combine.rows = rows.of_pair;
  combine.weights = shape.weight_scales_input ? nullptr : params.input.weights;
  combine.top_k = shape.top_k;
  combine.y = params.y;
  kernels::combine_rows(stream, combine);
}

int64_t device_experts_scratch_bytes(const MoeShape& shape, int num_experts, int64_t max_rows) {
  const int64_t pairs = max_rows * shape.top_k;
  const int64_t rows = kernels::max_permuted_rows(pairs, num_experts, kGroupAlignment);
  // As for kF32, which takes most.
  return Arena::matrix_bytes(num_experts + 1, 1) + Arena::matrix_bytes(pairs, 1) +
         Arena::matrix_bytes(rows, 1) + 2 * Arena::matrix_bytes(rows, shape.hidden_size) +
         Arena::matrix_bytes(rows, 2 * shape.intermediate_size) +
         Arena::matrix_bytes(rows, shape.intermediate_size) + 8 * Arena::kAlignment;
}

}  // namespace wideep::moe
