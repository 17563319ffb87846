// Eight elements of a row at a time: 16 bytes of bf16, 32 of float.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda_device.cuh"

namespace wideep::kernels {

struct Eight {
  float value[8];
};

// Whether rows can be read or written 16 bytes at a time.
template <typename Byte>
bool is_vectorizable(const BasicMatrixView<Byte>& view) {
  const auto address = reinterpret_cast<uintptr_t>(view.data);
  return (address | static_cast<uintptr_t>(view.stride * dtype_size(view.dtype))) % 16 == 0 &&
         view.columns % 8 == 0;
}

// kVector: `from` is aligned to 16 bytes and all eight exist. Otherwise elements from `count` on
// are zeros, and any alignment will do.
template <bool kVector>
__device__ inline Eight load_eight(const float* from, int64_t count) {
  Eight result;
  if constexpr (kVector) {
    const float4 low = *reinterpret_cast<const float4*>(from);
    const float4 high = *reinterpret_cast<const float4*>(from + 4);
    return {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) result.value[i] = i < count ? from[i] : 0.0F;
    return result;
  }
}
template <bool kVector>
__device__ inline Eight load_eight(const __nv_bfloat16* from, int64_t count) {
  Eight result;
  if constexpr (kVector) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      result.value[2 * i] = __uint_as_float(word[i] << 16);
      result.value[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000U);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) result.value[i] = i < count ? __bfloat162float(from[i]) : 0.0F;
  }
  return result;
}

template <bool kVector>
__device__ inline void store_eight(const Eight& from, float* to, int64_t count) {
  if constexpr (kVector) {
    const float* v = from.value;
    *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
    *reinterpret_cast<float4*>(to + 4) = {v[4], v[5], v[6], v[7]};
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) to[i] = from.value[i];
    }
  }
}
template <bool kVector>
__device__ inline void store_eight(const Eight& from, __nv_bfloat16* to, int64_t count) {
  if constexpr (kVector) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __float22bfloat162_rn({from.value[2 * i], from.value[2 * i + 1]});
      word[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    *reinterpret_cast<uint4*>(to) = {word[0], word[1], word[2], word[3]};
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) to[i] = __float2bfloat16_rn(from.value[i]);
    }
  }
}

__device__ inline float largest_magnitude(const Eight& eight) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(eight.value[i]));
  return largest;
}

// The scale of FP8 values whose largest magnitude is this, and what they are multiplied by.
struct Fp8Scale {
  float scale;
  float inverse;
};
__device__ inline Fp8Scale fp8_scale(float largest) {
  if (largest == 0) return {1, 1};
  return {__fdiv_rn(largest, 448.0F), __fdiv_rn(448.0F, largest)};
}

// To E4M3, to the nearest, ties to even.
__device__ inline uint2 to_fp8(const Eight& from, float factor) {
  uint32_t pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    pair[i] = __nv_cvt_float2_to_fp8x2({from.value[2 * i] * factor, from.value[2 * i + 1] * factor},
                                       __NV_SATFINITE, __NV_E4M3);
  }
  return {pair[0] | pair[1] << 16, pair[2] | pair[3] << 16};
}

}  // namespace wideep::kernels
