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

// Of each half of the words the one of larger magnitude, with whatever sign.
__device__ inline uint32_t max_magnitude(uint32_t a, uint32_t b) {
  uint32_t word;
  asm("max.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
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

// The largest of 8 columns at even and at odd places.
__device__ inline uint32_t largest_of(const uint4& columns) {
  return max_magnitude(max_magnitude(columns.x, columns.y), max_magnitude(columns.z, columns.w));
}

struct GroupScale {
  float scale;
  float inverse;  // what the columns are multiplied by
};

// The scale of a group of columns, of its largest magnitudes.
__device__ inline GroupScale scale_of(uint32_t largest) {
  const float2 halves = unpack_bf16(largest);
  const float magnitude = fmaxf(fabsf(halves.x), fabsf(halves.y));
  if (magnitude == 0) return {1.0F, 1.0F};
  return {__fdiv_rn(magnitude, 448.0F), __fdiv_rn(448.0F, magnitude)};
}

__device__ inline uint2 round8(const uint4& columns, float inverse) {
  return {pack_fp8(columns.x, columns.y, inverse), pack_fp8(columns.z, columns.w, inverse)};
}

// 16 columns to 16 bytes; the 8 lanes that hold a group of 128 columns call it together, at lanes
// that begin at a multiple of 8. All lanes get the group's scale.
__device__ inline uint4 quantize16(const uint4& first, const uint4& second, float& scale) {
  uint32_t largest = max_magnitude(largest_of(first), largest_of(second));
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
    largest = max_magnitude(largest, __shfl_xor_sync(0xffffffffU, largest, step));
  }
  const GroupScale of_group = scale_of(largest);
  scale = of_group.scale;
  const uint2 low = round8(first, of_group.inverse);
  const uint2 high = round8(second, of_group.inverse);
  return {low.x, low.y, high.x, high.y};
}

}  // namespace wideep::alltoall::device
