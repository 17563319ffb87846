// BF16 to FP8 E4M3 with one scale for 128 columns, in registers: what dispatch does to a row on its
// way. The host's twin is quantize_row of quantize.h; both give the same bits.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "alltoall/nvlink_types.h"

namespace wideep::alltoall::device {

// The two floats of a word of BF16.
__device__ inline float2 unpack_bf16(uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000U)};
}

// Rounds to nearest even, as float_to_bf16 of base/float_formats.h does.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

__device__ inline uint32_t max_magnitude(uint32_t a, uint32_t b) {
  uint32_t word;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a & 0x7fff7fffU), "r"(b & 0x7fff7fffU));
  return word;
}

__device__ inline uint32_t pack_fp8(uint32_t low, uint32_t high, float inverse) {
  const float2 a = unpack_bf16(low);
  const float2 b = unpack_bf16(high);
  const __nv_fp8x2_storage_t first =
      __nv_cvt_float2_to_fp8x2({a.x * inverse, a.y * inverse}, __NV_SATFINITE, __NV_E4M3);
  const __nv_fp8x2_storage_t second =
      __nv_cvt_float2_to_fp8x2({b.x * inverse, b.y * inverse}, __NV_SATFINITE, __NV_E4M3);
  return first | static_cast<uint32_t>(second) << 16;
}

// 16 columns to 16 bytes; the 8 lanes that hold a group of 128 columns call it together, at lanes
// that begin at a multiple of 8. All lanes get the group's scale.
__device__ inline uint4 quantize16(const uint4& first, const uint4& second, float& scale) {
  uint32_t largest = max_magnitude(first.x, first.y);
  largest = max_magnitude(largest, max_magnitude(first.z, first.w));
  largest = max_magnitude(largest, max_magnitude(second.x, second.y));
  largest = max_magnitude(largest, max_magnitude(second.z, second.w));
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
    largest = max_magnitude(largest, __shfl_xor_sync(0xffffffffU, largest, step));
  }
  const float2 halves = unpack_bf16(largest);
  const float magnitude = fmaxf(halves.x, halves.y);
  const bool zero = magnitude == 0;
  scale = zero ? 1.0F : __fdiv_rn(magnitude, 448.0F);
  const float inverse = zero ? 1.0F : __fdiv_rn(448.0F, magnitude);
  return {pack_fp8(first.x, first.y, inverse), pack_fp8(first.z, first.w, inverse),
          pack_fp8(second.x, second.y, inverse), pack_fp8(second.z, second.w, inverse)};
}

}  // namespace wideep::alltoall::device
