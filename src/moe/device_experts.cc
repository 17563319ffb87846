#include "moe/device_experts.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/quantize.h"

namespace wideep::moe {
namespace {

using kernels::kGroupAlignment;

// So few tokens leave most of an expert's rows in the aligned layout empty: every expert gets room
// for all of them instead, of which only the rows in use are touched.
constexpr int64_t kMaskedTokens = 256;
constexpr int64_t kMaskedAlignment = 64;

bool is_fp8(const ExpertWeights& experts) {
  return experts.gate_up.front().dtype == DType::kF8E4M3;
}

int64_t masked_rows(int64_t tokens) {
  return (tokens + kMaskedAlignment - 1) / kMaskedAlignment * kMaskedAlignment;
}

// Where the rows of a batch go: one behind the other, or, where group_rows > 0, so many for each
// expert.
struct Rows {
  int64_t group_rows = 0;
  std::span<int> offsets;  // [experts + 1]
  std::span<int> counts;   // [experts]
  std::span<int> of_pair;  // [tokens * top_k] the row of each pair
  std::span<int> pairs;    // [bound] the pair of each row

  const int* masked_counts() const { return group_rows > 0 ? counts.data() : nullptr; }
};

Rows permute(Stream& stream, Arena& arena, const DeviceExpertsParams& params) {
  const int num_experts = static_cast<int>(std::ssize(params.experts.down));
  const int64_t tokens = params.input.x.rows;
  const int64_t num_pairs = tokens * params.shape.top_k;
  Rows rows;
  if (is_fp8(params.experts) && tokens <= kMaskedTokens) rows.group_rows = masked_rows(tokens);
  rows.offsets = arena.take<int>(num_experts + 1);
  rows.counts = arena.take<int>(num_experts);
  rows.of_pair = arena.take<int>(num_pairs);
  rows.pairs = arena.take<int>(
      rows.group_rows > 0 ? num_experts * rows.group_rows
                          : kernels::max_permuted_rows(num_pairs, num_experts, kGroupAlignment));
  kernels::PermutationParams permutation;
  permutation.ids = params.input.all_ids(params.shape.top_k);
  permutation.group_begin = params.first_expert;
  permutation.num_groups = num_experts;
  permutation.offsets = rows.offsets.data();
  permutation.counts = rows.counts.data();
  permutation.rows = rows.of_pair.data();
  permutation.pairs = rows.pairs.data();
  permutation.row_alignment = kGroupAlignment;
  permutation.group_rows = static_cast<int>(rows.group_rows);
  kernels::make_permutation(stream, permutation);
  return rows;
}

kernels::QuantizedRows take_quantized(Arena& arena, int64_t rows, int64_t columns,
                                      int64_t batch_rows) {
  // Twice the arena's alignment is what they ask for.
  const int64_t bytes = kernels::quantized_bytes(rows, columns, batch_rows) + Arena::kAlignment;
  std::byte* memory = arena.take<std::byte>(bytes).data();
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return kernels::quantized_rows(memory + (address % (2 * Arena::kAlignment)), rows, columns,
                                 batch_rows);
}

// The rows in order, as the first product takes them.
kernels::ScaledRows gather(Stream& stream, Arena& arena, const DeviceExpertsParams& params,
                           const Rows& rows) {
  const MoeInput& input = params.input;
  const int64_t bound = std::ssize(rows.pairs);
  const float* scales = params.shape.weight_scales_input ? input.weights : nullptr;
  if (is_fp8(params.experts)) {
    const kernels::QuantizedRows x =
        take_quantized(arena, bound, params.shape.hidden_size, rows.group_rows);
    kernels::gather_quantize(
        stream, {input.x, rows.pairs.data(), params.shape.top_k, scales, rows.masked_counts(), x});
    return x;
  }
  const MatrixView x = arena.matrix(bound, params.shape.hidden_size, input.x.dtype);
  kernels::gather_rows(stream, {input.x, rows.pairs, params.shape.top_k, scales, x});
  return {x};
}

kernels::ScaledRows activate(Stream& stream, Arena& arena, const DeviceExpertsParams& params,
                             const Rows& rows, MatrixView gate_up) {
  const int64_t columns = params.shape.intermediate_size;
  if (is_fp8(params.experts)) {
    const kernels::QuantizedRows activated =
        take_quantized(arena, gate_up.rows, columns, rows.group_rows);
    kernels::silu_mul_quantize(stream, {gate_up, rows.masked_counts(), activated});
    return activated;
  }
  const MatrixView activated = arena.matrix(gate_up.rows, columns, gate_up.dtype);
  kernels::silu_mul(stream, gate_up, activated);
  return {activated};
}

void multiply(Stream& stream, const Rows& rows, const kernels::ScaledRows& x,
              std::span<const kernels::PackedWeight> weights, MatrixView y) {
  const kernels::GroupedWeight weight = grouped(weights);
  if (rows.group_rows == 0) {
    kernels::grouped_gemm_contiguous(stream,
                                     {x, rows.offsets.data(), weight, y, rows.counts.data()});
    return;
  }
  const int64_t expected = (std::ssize(rows.of_pair) + weight.groups - 1) / weight.groups;
  kernels::grouped_gemm_masked(stream,
                               {x, rows.counts.data(), rows.group_rows, expected, weight, y});
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
  if (params.profile != nullptr) params.profile->begin(stream, Phase::kExperts);
  const MatrixView gate_up = arena.matrix(bound, int64_t{2} * shape.intermediate_size, dtype);
  multiply(stream, rows, x, params.experts.gate_up, gate_up);
  const kernels::ScaledRows activated = activate(stream, arena, params, rows, gate_up);
  const MatrixView down = arena.matrix(bound, shape.hidden_size, dtype);
  multiply(stream, rows, activated, params.experts.down, down);

  if (params.profile != nullptr) params.profile->begin(stream, Phase::kCombine);
  kernels::CombineRowsParams combine;
  combine.x = down;
  combine.rows = rows.of_pair;
  combine.weights = shape.weight_scales_input ? nullptr : params.input.weights;
  combine.top_k = shape.top_k;
  combine.y = params.y;
  if (params.input.side != nullptr) params.input.side->join(stream);
  combine.residual = params.input.residual;
  kernels::combine_rows(stream, combine);
}

void run_slots_on_device(Stream& stream, Arena& arena, const DeviceSlotsParams& params) {
  const Arena::Scope scope(arena);
  const alltoall::Received& received = params.received;
  const int64_t rows = received.rows.rows;
  const int64_t columns = params.shape.intermediate_size;
  const bool is_masked = params.group_rows > 0;
  // One batch of all rows in use, or one for each slot.
  const int64_t batch_rows = is_masked ? params.group_rows : rows;
  const int* const counts = is_masked ? received.slot_counts.data()
                                      : received.offsets.data() + received.offsets.size() - 1;
  const auto multiply = [&](const kernels::ScaledRows& x,
                            std::span<const kernels::PackedWeight> weights, MatrixView y) {
    const kernels::GroupedWeight weight = grouped(weights);
    if (is_masked) {
      kernels::grouped_gemm_masked(stream,
                                   {x, counts, params.group_rows, params.expected_rows, weight, y});
    } else {
      kernels::grouped_gemm_contiguous(
          stream, {x, received.offsets.data(), weight, y, received.slot_counts.data()});
    }
  };

  kernels::ScaledRows x = {received.rows};
  if (is_fp8(params.slots)) {
    const int64_t blocks = received.scales.columns;
    kernels::QuantizedRows arranged;
    arranged.data = {nullptr, DType::kF8E4M3, rows, received.rows.columns, received.rows.columns};
    arranged.scales = arena.take<float>(rows * blocks).data();
    arranged.scale_stride = arranged.batch_rows = batch_rows;
    kernels::arrange_scales(stream, {received.scales, counts, arranged});
    x.scales = arranged.scales;
    x.scale_stride = arranged.scale_stride;
  }
  const MatrixView gate_up = arena.matrix(rows, 2 * columns, DType::kBF16);
  multiply(x, params.slots.gate_up, gate_up);
  if (is_fp8(params.slots)) {
    const kernels::QuantizedRows activated = take_quantized(arena, rows, columns, batch_rows);
    kernels::silu_mul_quantize(stream, {gate_up, counts, activated});
    multiply(activated, params.slots.down, received.outputs);
  } else {
    const MatrixView activated = arena.matrix(rows, columns, DType::kBF16);
    kernels::silu_mul(stream, gate_up, activated, counts);
    multiply({activated}, params.slots.down, received.outputs);
  }
}

int64_t device_slots_scratch_bytes(const MoeShape& shape, int64_t rows) {
  const auto blocks = [](int64_t columns) {
    return (columns + kernels::kScaleColumns - 1) / kernels::kScaleColumns;
  };
  // Activations as for BF16, and the scales of FP8: more than either takes.
  return Arena::matrix_bytes(rows, blocks(shape.hidden_size) + blocks(shape.intermediate_size)) +
         Arena::matrix_bytes(rows, int64_t{3} * shape.intermediate_size, DType::kBF16) +
         8 * Arena::kAlignment;
}

int64_t device_experts_scratch_bytes(const MoeShape& shape, int num_experts, int64_t max_rows) {
  const int64_t pairs = max_rows * shape.top_k;
  const int64_t rows = std::max(kernels::max_permuted_rows(pairs, num_experts, kGroupAlignment),
                                num_experts * masked_rows(std::min(max_rows, kMaskedTokens)));
  // As for kF32, which takes most.
  return 2 * Arena::matrix_bytes(num_experts + 1, 1) + Arena::matrix_bytes(pairs, 1) +
         Arena::matrix_bytes(rows, 1) + 2 * Arena::matrix_bytes(rows, shape.hidden_size) +
         Arena::matrix_bytes(rows, 2 * shape.intermediate_size) +
         Arena::matrix_bytes(rows, shape.intermediate_size) + 8 * Arena::kAlignment;
}

}  // namespace wideep::moe
