// A team of threads has some outputs of a product, and reads their weights before it waits for the
// kernel that makes the rows. Sums are in fp32, in an order that depends on the shape alone.
#include <algorithm>

#include "base/tensor.h"
#include "kernels/eight.cuh"
#include "kernels/few_rows_dot.h"
#include "kernels/launch.cuh"

namespace wideep::kernels {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kLoads = 8;   // of weights, 16 bytes each, that a thread has under way
constexpr int kVector = 8;  // elements of them

struct Arguments {
  const __nv_bfloat16* x;
  int64_t x_stride;
  int64_t x_batch_stride;
  const __nv_bfloat16* weight;
  int64_t weight_stride;
  int64_t weight_batch_stride;
  void* y;
  int64_t y_stride;
  int64_t y_batch_stride;
  bool y_is_float;
  int rows;
  uint32_t out;      // of a product of the batch
  uint32_t outputs;  // of all
  int in;
};

__device__ float sum_of_team(float value, int team, float* of_warps) {
  for (int offset = min(team, kWarp) / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  if (team <= kWarp) return value;
  // The team is the block.
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (thread % kWarp == 0) of_warps[thread / kWarp] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += of_warps[warp];
  return sum;
}

__device__ void store(const Arguments& a, int64_t at, float sum) {
  if (a.y_is_float) {
    static_cast<float*>(a.y)[at] = sum;
  } else {
    static_cast<__nv_bfloat16*>(a.y)[at] = __float2bfloat16_rn(sum);
  }
}

// kVectors of each output are a thread's, threads of a team apart, and so it has kLoads / kVectors
// outputs.
template <int kRows, int kVectors>
__global__ void __launch_bounds__(kThreads)
    few_rows_dot_kernel(const __grid_constant__ Arguments a, int team) {
  constexpr int kOutputs = kLoads / kVectors;
  __shared__ float of_warps[kThreads / kWarp];
  allow_next_kernel();
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t teams = kThreads / team;
  const uint32_t first = blockIdx.x * kOutputs * teams + thread / team;
  const int place = thread % team;
  uint4 weights[kOutputs][kVectors];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const uint32_t output = first + o * teams;
    const uint32_t product = output / a.out;
    const __nv_bfloat16* row =
        a.weight + product * a.weight_batch_stride + (output - product * a.out) * a.weight_stride;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * team + place) * kVector;
      weights[o][v] = {0, 0, 0, 0};
      if (output < a.outputs && column < a.in) {
        weights[o][v] = __ldcs(reinterpret_cast<const uint4*>(row + column));
      }
    }
  }
  wait_for_previous_kernel();
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const uint32_t output = min(first + o * teams, a.outputs - 1);
    const uint32_t product = output / a.out;
    float sums[kRows] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * team + place) * kVector;
      if (column >= a.in) continue;
      const Eight weight =
          load_eight<true>(reinterpret_cast<const __nv_bfloat16*>(&weights[o][v]), kVector);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= a.rows) continue;
        const Eight x =
            load_eight<true>(a.x + r * a.x_stride + product * a.x_batch_stride + column, kVector);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sums[r] = fmaf(x.value[i], weight.value[i], sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = sum_of_team(sums[r], team, of_warps);
      if (place == 0 && r < a.rows && first + o * teams < a.outputs) {
        store(a, r * a.y_stride + product * a.y_batch_stride + output - product * a.out, sum);
      }
    }
  }
}

// Threads of a team: a power of two, and either at most a warp or all of a block.
int team_of(int vectors) {
  if (vectors > kWarp * kLoads) return kThreads;
  int team = 1;
  while (team < std::min(vectors, kWarp)) team *= 2;
  return team;
}

template <int kRows>
void launch_rows(const Stream& stream, const Arguments& a) {
  const int vectors = a.in / kVector;
  const int team = team_of(vectors);
  const int of_thread = (vectors + team - 1) / team;
  const auto launch = [&]<int kVectors>() {
    const int of_block = kLoads / kVectors * (kThreads / team);
    const auto blocks = static_cast<unsigned>((a.outputs + of_block - 1) / of_block);
    launch_kernel(stream, {blocks, kThreads}, few_rows_dot_kernel<kRows, kVectors>, a, team);
  };
  if (of_thread == 1) return launch.template operator()<1>();
  if (of_thread == 2) return launch.template operator()<2>();
  if (of_thread <= 4) return launch.template operator()<4>();
  launch.template operator()<kLoads>();
}

bool is_whole_vectors(const BlasProduct::Operand& operand) {
  return reinterpret_cast<uintptr_t>(operand.data) % 16 == 0 && operand.stride % kVector == 0 &&
         operand.batch_stride % kVector == 0;
}

}  // namespace

bool can_dot_few_rows(const BlasProduct& p) {
  return p.dtype == DType::kBF16 && p.tokens <= kMostDotRows && p.in % kVector == 0 &&
         p.in <= kLoads * kThreads * kVector && is_whole_vectors(p.x) &&
         is_whole_vectors(p.weight) && 2 * p.batch * p.out * p.in <= kMostDotBytes;
}

void dot_few_rows(Stream& stream, const BlasProduct& p) {
  CHECK(can_dot_few_rows(p));
  Arguments a{};
  a.x = reinterpret_cast<const __nv_bfloat16*>(p.x.data);
  a.x_stride = p.x.stride;
  a.x_batch_stride = p.x.batch_stride;
  a.weight = reinterpret_cast<const __nv_bfloat16*>(p.weight.data);
  a.weight_stride = p.weight.stride;
  a.weight_batch_stride = p.weight.batch_stride;
  a.y = p.y;
  a.y_stride = p.y_stride;
  a.y_batch_stride = p.y_batch_stride;
  a.y_is_float = p.y_dtype == DType::kF32;
  a.rows = static_cast<int>(p.tokens);
  a.out = static_cast<uint32_t>(p.out);
  a.outputs = static_cast<uint32_t>(p.batch * p.out);
  a.in = static_cast<int>(p.in);
  if (a.outputs == 0) return;
  if (a.rows == 1) {
    launch_rows<1>(stream, a);
  } else if (a.rows == 2) {
    launch_rows<2>(stream, a);
  } else {
    launch_rows<4>(stream, a);
  }
  check_launch(stream, "few_rows_dot");
}

}  // namespace wideep::kernels
