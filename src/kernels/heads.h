// Ops on the heads of a token: equal slices of a row, head_stride elements apart.
#pragma once

#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// y[t, h * y_head_stride + i] = x[t, h * x_head_stride + i] for i in [0, width).
struct CopyHeadsParams {
  ConstMatrixView x;
  int64_t x_head_stride = 0;
  MatrixView y;
  int64_t y_head_stride = 0;
  int num_heads = 0;
  int width = 0;
};
void copy_heads(Stream& stream, const CopyHeadsParams& params);

// Root-mean-square normalisation of each head in place: the first `width` elements of it. weight
// [width], null for ones.
struct NormHeadsParams {
  MatrixView x;
  int64_t head_stride = 0;
  int num_heads = 0;
  int width = 0;
  const float* weight = nullptr;
  float eps = 1e-6F;
};
void norm_heads(Stream& stream, const NormHeadsParams& params);

}  // namespace wideep::kernels
