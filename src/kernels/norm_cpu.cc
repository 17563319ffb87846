#include <cmath>

#include "base/check.h"
#include "kernels/cuda_ops.h"
#include "kernels/norm.h"
#include "kernels/parallel.h"

namespace wideep::kernels {
namespace {

constexpr int kLanes = 16;

double row_nanoseconds(const MatrixView& y) {
  return 0.6 * static_cast<double>(y.columns);
}

// In sixteen interleaved sums, which are added as a tree: a third of the rounding errors of one
// sum, and vectors for the compiler.
float sum_of_squares(const float* x, int64_t count) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  }
  for (int lane = 0; i < count; ++i, ++lane) sums[lane] += x[i] * x[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// x and y may be the same row.
void norm_row(const float* x, const float* weight, float eps, int64_t count, float* y) {
  const float mean = sum_of_squares(x, count) / static_cast<float>(count);
  const float factor = 1.0F / std::sqrt(mean + eps);
  if (weight == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] * factor;
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] * factor * weight[i];
  }
}

}  // namespace

void rms_norm(Stream& stream, const RmsNormParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rms_norm(stream, params);
  }
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  CHECK(x.rows == y.rows && x.columns == y.columns);
  parallel_ranges(stream, x.rows, row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      norm_row(x.row<float>(r), params.weight, params.eps, x.columns, y.row<float>(r));
    }
  });
}

void rms_norm_pair(Stream& stream, const RmsNormParams& first, const RmsNormParams& second) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rms_norm_pair(stream, first, second);
  }
  rms_norm(stream, first);
  rms_norm(stream, second);
}

void add_rms_norm(Stream& stream, const AddRmsNormParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add_rms_norm(stream, params);
  }
  const ConstMatrixView& x = params.x;
  const MatrixView& residual = params.residual;
  const MatrixView& y = params.y;
  CHECK(x.dtype == DType::kF32 && residual.dtype == DType::kF32 && y.dtype == DType::kF32);
  CHECK(x.rows == y.rows && x.columns == y.columns);
  CHECK(x.rows == residual.rows && x.columns == residual.columns);
  parallel_ranges(stream, x.rows, 2 * row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto* from = x.row<float>(r);
      auto* sum = residual.row<float>(r);
      for (int64_t i = 0; i < x.columns; ++i) sum[i] += from[i];
      norm_row(sum, params.weight, params.eps, x.columns, y.row<float>(r));
    }
  });
}

}  // namespace wideep::kernels
