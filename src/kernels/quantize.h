// FP8 (E4M3) rows with a scale for every 128 columns, as the matrix products on Hopper read them.
// CUDA only: the CPU multiplies floats.
//
// A group of 128 columns is divided by its scale amax / 448 and rounded to the nearest, ties to
// even; a group of zeros has the scale 1. Scales are kept column by column: that of columns
// [128 b, 128 b + 128) of row r is scales[b * scale_stride + r], so that the scales of a tile's
// rows are adjacent. Rows may come in batches of `batch_rows` (the experts of the masked layout of
// grouped_gemm.h); scales are then [rows / batch_rows, ceil(columns / 128), scale_stride].
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

inline constexpr int kScaleColumns = 128;

// Rows of floats (scales is null), or of kF8E4M3 with scales.
struct ScaledRows {
  ConstMatrixView data;  // [rows, columns]
  const float* scales = nullptr;
  int64_t scale_stride = 0;  // a multiple of 4
};

// Where FP8 rows are written.
struct QuantizedRows {
  MatrixView data;  // kF8E4M3 [rows, columns], columns a multiple of 16, adjacent rows
  float* scales = nullptr;
  int64_t scale_stride = 0;
  int64_t batch_rows = 0;  // divides rows

  operator ScaledRows() const { return {data, scales, scale_stride}; }  // NOLINT: only read
};

// Bytes of data and scales, a multiple of 128, and the two laid out in so many bytes, which begin
// at a multiple of 128. batch_rows 0: one batch of all rows; otherwise a multiple of 4.
int64_t quantized_bytes(int64_t rows, int64_t columns, int64_t batch_rows = 0);
QuantizedRows quantized_rows(std::byte* memory, int64_t rows, int64_t columns,
                             int64_t batch_rows = 0);

// x [rows, columns] kF32 or kBF16. counts, [rows / batch_rows] on the device: of each batch only so
// many rows are read and written; null: all.
struct QuantizeParams {
  ConstMatrixView x;
  const int* counts = nullptr;
  QuantizedRows y;
};
void quantize_rows(Stream& stream, const QuantizeParams& params);

// silu(gate) * up, quantised: x = [gate | up] of [rows, 2 * columns] kF32 or kBF16.
void silu_mul_quantize(Stream& stream, const QuantizeParams& params);

// gather_rows (permute.h), quantised: row r is x[pairs[r] / top_k], times scales[pairs[r]] where
// they are given; zeros where pairs[r] < 0. y.data.rows is a bound known to the host, of which
// counts may say how many there are.
struct GatherQuantizeParams {
  ConstMatrixView x;           // [tokens, columns] kF32 or kBF16
  const int* pairs = nullptr;  // [y.data.rows]
  int top_k = 1;
  const float* scales = nullptr;  // [tokens * top_k]
  const int* counts = nullptr;    // [y.data.rows / y.batch_rows]
  QuantizedRows y;
};
void gather_quantize(Stream& stream, const GatherQuantizeParams& params);

// Scales that lie row by row, [rows, ceil(columns / 128)] as they travel between ranks, to the
// layout above; x.columns is ceil(columns / 128), y.data is not touched.
void arrange_scales(Stream& stream, const QuantizeParams& params);

}  // namespace wideep::kernels
