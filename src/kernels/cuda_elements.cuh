// Rows whose type is known when a kernel runs. For .cu files.
#pragma once

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cuda_device.cuh"

namespace wideep::kernels {

// Elements of one type or the other; the branch is the same for a whole launch.
struct Elements {
  const void* data;
  bool is_bf16;

  __device__ float at(int64_t i) const {
    if (is_bf16) return to_float(static_cast<const __nv_bfloat16*>(data)[i]);
    return static_cast<const float*>(data)[i];
  }
};

inline Elements elements_of(const void* data, DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return {data, dtype == DType::kBF16};
}

}  // namespace wideep::kernels
