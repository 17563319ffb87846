// Products in plain fp32 on a device's ordinary units: the mode in which results are compared, and
// the way out for shapes that the tensor cores' kernels cannot take.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

// Any types of x (with scales if FP8), of the weights, and kF32 or kBF16 for y. Sums are in
// ascending order of the input, whatever the number of rows.
struct SimtGemmParams {
  ScaledRows x;
  const std::byte* weight = nullptr;  // groups of device weights, stride_bytes apart
  int64_t stride_bytes = 0;
  DType dtype = DType::kF32;
  int groups = 1;
  MatrixView y;
  // Of grouped_gemm.h: offsets for the contiguous layout, counts and max_rows for the masked one,
  // none for one product of all rows.
  const int* offsets = nullptr;
  const int* counts = nullptr;
  int64_t max_rows = 0;
};
void simt_gemm(Stream& stream, const SimtGemmParams& params);

}  // namespace wideep::kernels
