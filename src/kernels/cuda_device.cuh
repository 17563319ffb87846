// What the CUDA ops share: elements as floats, and the element type of a call.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "base/check.h"
#include "base/cuda.h"
#include "base/dtype.h"
#include "base/stream.h"
#include "kernels/op_context.h"

namespace wideep::kernels {

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Calls body(T{}) with the element type of kF32 or kBF16.
template <typename Body>
void with_float_type(DType dtype, const Body& body) {
  if (dtype == DType::kF32) {
    body(float{});
  } else {
    CHECK(dtype == DType::kBF16);
    body(__nv_bfloat16{});
  }
}

}  // namespace wideep::kernels
