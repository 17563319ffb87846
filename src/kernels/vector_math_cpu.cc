#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/vector_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector_math_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/simd.inc"

HWY_BEFORE_NAMESPACE();
namespace wideep::kernels::HWY_NAMESPACE {

// The last, incomplete vector of a row, with `rest` in the lanes beyond it.
HWY_INLINE F32x16 load_some(const float* from, int64_t count, float rest) {
  HWY_ALIGN float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, rest);
  std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(float));
  return load(lanes);
}
HWY_INLINE void store_some(const F32x16& v, int64_t count, float* to) {
  HWY_ALIGN float lanes[kLanes];
  store(v, lanes);
  std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(float));
}

// y = function(x), or function(x, x2) of two rows. Lanes beyond the row see `rest`.
template <typename Function>
HWY_INLINE void map_row(const float* x, int64_t count, float rest, float* y,
                        const Function& function) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(function(load(x + i), i), y + i);
  if (i < count) store_some(function(load_some(x + i, count - i, rest), i), count - i, y + i);
}

float exp_row(const float* x, float shift, float scale, int64_t count, float* y) {
  const F32x16 shifts = broadcast(shift);
  const F32x16 scales = broadcast(scale);
  F32x16 total = broadcast(0);
  // scale >= 0, so that exp is 0 beyond the row.
  map_row(x, count, -std::numeric_limits<float>::infinity(), y,
          [&](const F32x16& v, int64_t) HWY_ATTR {
            const F32x16 e = exp(mul(sub(v, shifts), scales));
            total = add(total, e);
            return e;
          });
  return sum(total);
}

HWY_INLINE F32x16 one_plus_exp_of_minus(const F32x16& v) {
  return add(broadcast(1), exp(sub(broadcast(0), v)));
}

void sigmoid_row(const float* x, int64_t count, float* y) {
  map_row(x, count, 0, y, [](const F32x16& v, int64_t) HWY_ATTR {
    return div(broadcast(1), one_plus_exp_of_minus(v));
  });
}

void silu_mul_row(const float* gate, const float* up, int64_t count, float* y) {
  map_row(gate, count, 0, y, [&](const F32x16& v, int64_t i) HWY_ATTR {
    const F32x16 factor = i + kLanes <= count ? load(up + i) : load_some(up + i, count - i, 0);
    return mul(div(v, one_plus_exp_of_minus(v)), factor);
  });
}

float max_finite_row(const float* x, int64_t count) {
  const float lowest = -std::numeric_limits<float>::infinity();
  F32x16 most = broadcast(lowest);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = max(most, finite_or(load(x + i), most));
  if (i < count) most = max(most, finite_or(load_some(x + i, count - i, lowest), most));
  return largest(most);
}

}  // namespace wideep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wideep::kernels {

HWY_EXPORT(exp_row);
HWY_EXPORT(sigmoid_row);
HWY_EXPORT(silu_mul_row);
HWY_EXPORT(max_finite_row);

float exp_row(const float* x, float shift, float scale, int64_t count, float* y) {
  return HWY_DYNAMIC_DISPATCH(exp_row)(x, shift, scale, count, y);
}

void sigmoid_row(const float* x, int64_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(sigmoid_row)(x, count, y);
}

void silu_mul_row(const float* gate, const float* up, int64_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(silu_mul_row)(gate, up, count, y);
}

float max_finite_row(const float* x, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(max_finite_row)(x, count);
}

}  // namespace wideep::kernels
#endif
