#include <cmath>
#include <cstring>

#include "kernels/cuda_ops.h"
#include "kernels/heads.h"
#include "kernels/parallel.h"

namespace wideep::kernels {

void copy_heads(Stream& stream, const CopyHeadsParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::copy_heads(stream, params);
  }
  CHECK(params.x.rows == params.y.rows);
  const double cost = 0.1 * params.num_heads * params.width;
  parallel_ranges(stream, params.x.rows, cost, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* x = params.x.row<float>(r);
      float* y = params.y.row<float>(r);
      for (int h = 0; h < params.num_heads; ++h) {
        std::memcpy(y + h * params.y_head_stride, x + h * params.x_head_stride,
                    static_cast<size_t>(params.width) * sizeof(float));
      }
    }
  });
}

void norm_heads(Stream& stream, const NormHeadsParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::norm_heads(stream, params);
  }
  const auto norm = [&](float* x) {
    float sum = 0;
    for (int i = 0; i < params.width; ++i) sum += x[i] * x[i];
    const float scale = 1 / std::sqrt(sum / static_cast<float>(params.width) + params.eps);
    for (int i = 0; i < params.width; ++i) {
      x[i] *= params.weight != nullptr ? scale * params.weight[i] : scale;
    }
  };
  const double cost = 1.0 * params.num_heads * params.width;
  parallel_ranges(stream, params.x.rows, cost, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int h = 0; h < params.num_heads; ++h)
        norm(params.x.row<float>(r) + h * params.head_stride);
    }
  });
}

}  // namespace wideep::kernels
