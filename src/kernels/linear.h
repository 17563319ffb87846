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
//
// CUDA: x and y are kF32 or kBF16, weights also kF8E4M3. A weight on a device is row-major with its
// scales behind it (device_weight_bytes). Sums are in fp32; kF32 weights multiply in true fp32,
// bf16 ones x rounded to bf16, and FP8 ones x quantised to 1 x 128 blocks (quantize.h). How a sum
// is ordered may depend on the number of rows: cuBLASLt chooses. A product may begin to read its
// weight while the kernel before it on the stream still runs, so that one must not write it; copies
// and other streams' work that was waited for may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

struct PackedWeight {
  const std::byte* data = nullptr;  // aligned to 64 bytes, on a device to 16
  DType dtype = DType::kF32;
  int out_features = 0;
  int in_features = 0;
  // kF8E4M3: [ceil(out / 128), ceil(in / 128)], w = data * scale of its block.
  const float* scales = nullptr;
};

// Bytes of a packed weight, a multiple of 64.
int64_t packed_weight_bytes(int out_features, int in_features, DType dtype);

// Packs rows [row_begin, row_begin + rows.rows) of a weight into `packed`; rows is kF32
// [n, in_features]. The weight is complete once all its rows have been packed; row_begin and n are
// multiples of kPackedRows, the last n may be less.
inline constexpr int kPackedRows = 32;
void pack_weight_rows(ConstMatrixView rows, int row_begin, int out_features, DType dtype,
                      std::byte* packed);

// A weight on a device: [out, in] row-major in kF32, kBF16 or kF8E4M3. kF8E4M3 (in a multiple of
// 16) is followed by as many more rows of `in` bytes as hold the scales. So it is one piece of
// memory, copying its bytes copies the weight, and the weights of a group lie side by side at a
// distance that is a whole number of rows, which is what the copy engine needs (grouped_gemm.h).
int64_t device_weight_bytes(int out_features, int in_features, DType dtype);
// The weight that lies, or will lie, at `data`.
PackedWeight device_weight(const std::byte* data, int out_features, int in_features, DType dtype);

// Converts rows of floats, uploaded to the device as they came, to rows [row_begin, row_begin +
// rows.rows) of a device weight. For kF8E4M3, row_begin is a multiple of 128 and so is rows.rows,
// but for the last rows: each 128 x 128 block gets the scale amax / 448.
struct DeviceWeightRowsParams {
  ConstMatrixView rows;  // [n, in] kF32 or kBF16
  int row_begin = 0;
  int out_features = 0;
  DType dtype = DType::kF32;
  std::byte* weight = nullptr;  // [device_weight_bytes(out_features, rows.columns, dtype)]
};
void store_device_weight_rows(Stream& stream, const DeviceWeightRowsParams& params);

// y[t, o] = sum over i of x[t, i] * w[o, i].  x [tokens, in], y [tokens, out].
void linear(Stream& stream, ConstMatrixView x, const PackedWeight& weight, MatrixView y);
// The same with rows that are quantised already, for kF8E4M3 weights. CUDA only.
void linear(Stream& stream, const ScaledRows& x, const PackedWeight& weight, MatrixView y);

// One weight a head: y[:, h * out + o] = sum over i of x[:, x_offset + h * x_head_stride + i] *
// w_h[o, i]. x [tokens, >= ...], y [tokens, y_head_stride * heads]. On CUDA the weights lie side by
// side, kF32 or kBF16; the span itself is of the host.
struct HeadLinearParams {
  ConstMatrixView x;
  int64_t x_head_stride = 0;              // elements between the inputs of two heads of a token
  std::span<const PackedWeight> weights;  // [heads], all of one shape
  MatrixView y;
  int64_t y_head_stride = 0;  // elements between the outputs of two heads of a token
};
void head_linear(Stream& stream, const HeadLinearParams& params);

// Rows offsets[g] to offsets[g + 1] of x times weight g. Groups may be empty. CPU only: on a device
// the offsets are not known to the host, see grouped_gemm.h.
struct GroupedLinearParams {
  ConstMatrixView x;                      // [rows, in]
  std::span<const int> offsets;           // [groups + 1], ascending from 0
  std::span<const PackedWeight> weights;  // [groups], all of one shape
  MatrixView y;                           // [rows, out]
};
void grouped_linear(Stream& stream, const GroupedLinearParams& params);

}  // namespace wideep::kernels
