// Root-mean-square normalisation over a row.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// y = x * rsqrt(mean(x^2) + eps) * weight. x and y [rows, columns], may be the same memory; weight
// [columns], null for ones. The mean is in fp32.
struct RmsNormParams {
  ConstMatrixView x;
  const float* weight = nullptr;
  float eps = 1e-6F;
  MatrixView y;
};
void rms_norm(Stream& stream, const RmsNormParams& params);

// Two norms of as many rows and the same types, in one launch on a GPU.
void rms_norm_pair(Stream& stream, const RmsNormParams& first, const RmsNormParams& second);

// residual += x, then y = norm of the residual.
struct AddRmsNormParams {
  ConstMatrixView x;    // [rows, columns]
  MatrixView residual;  // [rows, columns]
  const float* weight = nullptr;
  float eps = 1e-6F;
  MatrixView y;
};
void add_rms_norm(Stream& stream, const AddRmsNormParams& params);

}  // namespace wideep::kernels
