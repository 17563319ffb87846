// FP8 products of a few rows, which are a matter of reading the weight: what the dense layers of a
// decode step at small batches are. Hopper only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

inline constexpr int64_t kFewRows = 4;

// y = x times the transposed weight, a device weight of kF8E4M3. Rows are quantised on the way
// where they are not yet. The bits of a row are those of DeepGEMM's tiles: products of 128 inputs
// are summed by the same instruction, and their sums in ascending order.
struct FewRowsParams {
  ScaledRows x;                       // [1 to kFewRows, in] kF32, kBF16, or kF8E4M3 with scales
  const std::byte* weight = nullptr;  // aligned to 16 bytes
  int out = 0;
  int in = 0;    // a multiple of 16
  MatrixView y;  // kBF16, or kF32, which is rounded to bf16 all the same
};
// Whether rows and inputs are few enough for the shared memory that they stay in.
bool can_multiply_few_rows(const FewRowsParams& params);
// A failure becomes the stream's.
void few_rows_gemm(Stream& stream, const FewRowsParams& params);

}  // namespace wideep::kernels
