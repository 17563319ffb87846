#include "bench/machine_limits.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine_limits.cc"
#include <hwy/foreach_target.h>
//
#include "kernels/simd.inc"

HWY_BEFORE_NAMESPACE();
namespace wideep::kernels::HWY_NAMESPACE {

// Floating-point operations done, which depends on the registers: as many chains as hide an
// instruction's latency.
int64_t multiply_and_add(int64_t rounds, float* result) {
  constexpr int kChains = 16 / kParts < 2 ? 2 : 16 / kParts;
  F32x16 chains[kChains];
  WIDEEP_UNROLL
  for (int i = 0; i < kChains; ++i) chains[i] = broadcast(static_cast<float>(i));
  const F32x16 factor = broadcast(0.5F);
  for (int64_t round = 0; round < rounds; ++round) {
    WIDEEP_UNROLL
    for (F32x16& chain : chains) chain = mul_add(chain, factor, factor);
  }
  *result = 0;
  WIDEEP_UNROLL
  for (const F32x16& chain : chains) *result += sum(chain);
  return rounds * kChains * kLanes * 2;
}

float read_all(const float* data, int64_t count) {
  F32x16 sums[4] = {broadcast(0), broadcast(0), broadcast(0), broadcast(0)};
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
    WIDEEP_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] = add(sums[j], load(data + i + j * kLanes));
  }
  return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

}  // namespace wideep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wideep {
namespace kernels {
HWY_EXPORT(multiply_and_add);
HWY_EXPORT(read_all);
}  // namespace kernels

namespace {

// The shortest of several runs, in seconds: others may be using the machine.
template <typename Body>
double shortest(const Body& body) {
  double best = 1e9;
  for (int run = 0; run < 12; ++run) {
    const double start = thread_seconds();
    body();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

MachineLimits measure() {
  using namespace kernels;
  volatile float sink = 0;
  MachineLimits limits;
  double operations = 0;
  const double multiplying = shortest([&] {
    float result = 0;
    operations = static_cast<double>(HWY_DYNAMIC_DISPATCH(multiply_and_add)(300'000, &result));
    sink = result;
  });
  limits.gflops = operations / multiplying * 1e-9;
  const std::vector<float> data(16 << 20, 1.0F);
  const double reading = shortest([&] {
    sink = HWY_DYNAMIC_DISPATCH(read_all)(data.data(), static_cast<int64_t>(data.size()));
  });
  limits.gigabytes_second = static_cast<double>(data.size() * sizeof(float)) / reading * 1e-9;
  return limits;
}

}  // namespace

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

const MachineLimits& machine_limits() {
  static const MachineLimits limits = measure();
  return limits;
}

}  // namespace wideep
#endif
