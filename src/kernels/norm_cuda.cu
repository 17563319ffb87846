// Rows are normalised by one block each, 8 elements of a thread at a time where rows allow it.
#include <algorithm>

#include "kernels/cuda_device.cuh"
#include "kernels/cuda_ops.h"

namespace wideep::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sum_of_block(float value) {
  __shared__ float of_warp[32];
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  value = lane < blockDim.x / 32 ? of_warp[lane] : 0;
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

struct Row {
  int64_t columns;
  float eps;
  const float* weight;
};

// kAdd: residual += x first, and the residual is what is normalised.
template <bool kAdd, typename X, typename R, typename Y>
__global__ void norm_kernel(const X* x, int64_t x_stride, R* residual, int64_t residual_stride,
                            Y* y, int64_t y_stride, Row row) {
  x += blockIdx.x * x_stride;
  residual += blockIdx.x * residual_stride;
  y += blockIdx.x * y_stride;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < row.columns; c += kThreads) {
    float value = to_float(x[c]);
    if constexpr (kAdd) {
      value += to_float(residual[c]);
      residual[c] = from_float<R>(value);
      value = to_float(residual[c]);
    }
    sum += value * value;
  }
  const float scale = rsqrtf(sum_of_block(sum) / static_cast<float>(row.columns) + row.eps);
  for (int64_t c = threadIdx.x; c < row.columns; c += kThreads) {
    const float value = kAdd ? to_float(residual[c]) : to_float(x[c]);
    y[c] = from_float<Y>(value * scale * (row.weight != nullptr ? row.weight[c] : 1.0F));
  }
}

}  // namespace

void rms_norm(Stream& stream, const RmsNormParams& params) {
  if (params.x.rows == 0) return;
  const Row row = {params.x.columns, params.eps, params.weight};
  with_float_type(params.x.dtype, [&]<typename X>(X) {
    with_float_type(params.y.dtype, [&]<typename Y>(Y) {
      norm_kernel<false><<<static_cast<unsigned>(params.x.rows), kThreads, 0, stream_of(stream)>>>(
          params.x.row<X>(0), params.x.stride, static_cast<float*>(nullptr), 0, params.y.row<Y>(0),
          params.y.stride, row);
    });
  });
  check_launch(stream, "rms_norm");
}

void add_rms_norm(Stream& stream, const AddRmsNormParams& params) {
  if (params.x.rows == 0) return;
  const Row row = {params.x.columns, params.eps, params.weight};
  with_float_type(params.x.dtype, [&]<typename X>(X) {
    with_float_type(params.residual.dtype, [&]<typename R>(R) {
      with_float_type(params.y.dtype, [&]<typename Y>(Y) {
        norm_kernel<true><<<static_cast<unsigned>(params.x.rows), kThreads, 0, stream_of(stream)>>>(
            params.x.row<X>(0), params.x.stride, params.residual.row<R>(0), params.residual.stride,
            params.y.row<Y>(0), params.y.stride, row);
      });
    });
  });
  check_launch(stream, "add_rms_norm");
}

}  // namespace wideep::kernels::cuda
