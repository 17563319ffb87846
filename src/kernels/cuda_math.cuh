// Functions that give the bits of their CPU twins in simd.inc, step by step: what is chosen by
// comparing their results (experts, tokens) is then chosen alike on every device.
#pragma once

#include <cstdint>

namespace wideep::kernels {

__device__ inline float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

// exp(x) of simd.inc, which says how.
__device__ inline float portable_exp(float x) {
  const float a = x > 104.0F ? 104.0F : x;
  const float q = rintf(__fmul_rn(a, 1.44269504F));
  float r = __fmaf_rn(q, -0.693359375F, a);
  r = __fmaf_rn(q, 2.12194440e-4F, r);
  float p = 1.0F / 5040;
  p = __fmaf_rn(p, r, 1.0F / 720);
  p = __fmaf_rn(p, r, 1.0F / 120);
  p = __fmaf_rn(p, r, 1.0F / 24);
  p = __fmaf_rn(p, r, 1.0F / 6);
  p = __fmaf_rn(p, r, 0.5F);
  p = __fmaf_rn(p, r, 1);
  p = __fmaf_rn(p, r, 1);
  const int exponent = __float2int_rn(q);
  const int half = exponent >> 1;
  const float y = __fmul_rn(__fmul_rn(p, power_of_two(half)), power_of_two(exponent - half));
  return x < -104.0F ? 0 : y;
}

__device__ inline float portable_sigmoid(float x) {
  return __fdiv_rn(1, __fadd_rn(1, portable_exp(-x)));
}

// Unsigned integers in the order of the floats; NaN is the least, as -infinity, and -0 is 0. None
// is 0.
__device__ inline uint32_t ordered(float x) {
  if (x == 0) x = 0;
  const uint32_t bits = isnan(x) ? 0xff800000U : __float_as_uint(x);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace wideep::kernels
