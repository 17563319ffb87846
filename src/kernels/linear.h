// Matrix products with weights: y = x W^T, for one weight, for one weight a head, and for one
// weight a group of rows (the experts of a rank).
//
// Weights are packed once into the layout that the device reads fastest. A packed weight is plain
// bytes: copying them copies the weight, so a slot can be filled from a peer's slot.
//
// Every row of y depends on its row of x alone, bit for bit: not on how many rows there are, on
// their order, or on the number of threads. Sums are in fp32, in ascending order of the input
// column up to a fixed interleaving. That is what makes continuous batching, chunked prefill and
// expert parallelism reproduce the tokens of a single request.
//
// CPU: x and y are kF32; weights kF32 or kBF16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

struct PackedWeight {
  const std::byte* data = nullptr;  // aligned to 64 bytes
  DType dtype = DType::kF32;
  int out_features = 0;
  int in_features = 0;
};

// Bytes of a packed weight, a multiple of 64.
int64_t packed_weight_bytes(int out_features, int in_features, DType dtype);

// Packs rows [row_begin, row_begin + rows.rows) of a weight into `packed`; rows is kF32
// [n, in_features]. The weight is complete once all its rows have been packed; row_begin and n are
// multiples of kPackedRows, the last n may be less.
inline constexpr int kPackedRows = 32;
void pack_weight_rows(ConstMatrixView rows, int row_begin, int out_features, DType dtype,
                      std::byte* packed);

// y[t, o] = sum over i of x[t, i] * w[o, i].  x [tokens, in], y [tokens, out].
void linear(Stream& stream, ConstMatrixView x, const PackedWeight& weight, MatrixView y);

// One weight a head: y[:, h * out + o] = sum over i of x[:, x_offset + h * x_head_stride + i] *
// w_h[o, i]. x [tokens, >= ...], y [tokens, y_head_stride * heads].
struct HeadLinearParams {
  ConstMatrixView x;
  int64_t x_head_stride = 0;              // elements between the inputs of two heads of a token
  std::span<const PackedWeight> weights;  // [heads], all of one shape
  MatrixView y;
  int64_t y_head_stride = 0;  // elements between the outputs of two heads of a token
};
void head_linear(Stream& stream, const HeadLinearParams& params);

// Rows offsets[g] to offsets[g + 1] of x times weight g. Groups may be empty.
struct GroupedLinearParams {
  ConstMatrixView x;                      // [rows, in]
  std::span<const int> offsets;           // [groups + 1], ascending from 0
  std::span<const PackedWeight> weights;  // [groups], all of one shape
  MatrixView y;                           // [rows, out]
};
void grouped_linear(Stream& stream, const GroupedLinearParams& params);

}  // namespace wideep::kernels
