// The ops around attention that touch a row once: into the cache, and merging partial results.
#include <cmath>

#include "kernels/cuda_device.cuh"
#include "kernels/cuda_elements.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kAppendThreads = 256;

// A block for each row.
template <typename From, typename To>
__global__ void kv_append_kernel(const From* rows, int64_t stride, const int64_t* slots,
                                 int64_t elements, To* cache) {
  follow_previous_kernel();
  const int64_t slot = slots[blockIdx.x];
  if (slot < 0) return;
  const From* from = rows + blockIdx.x * stride;
  To* to = cache + slot * elements;
  for (int64_t i = threadIdx.x; i < elements; i += blockDim.x) {
    to[i] = from_float<To>(to_float(from[i]));
  }
}

}  // namespace

void kv_append(Stream& stream, ConstMatrixView rows, std::span<const int64_t> slots,
               const KvCacheView& cache) {
  const int64_t elements = cache.token_elements();
  CHECK(rows.columns == elements && rows.rows == static_cast<int64_t>(slots.size()));
  if (rows.rows == 0) return;
  with_float_type(rows.dtype, [&]<typename From>(From) {
    with_float_type(cache.dtype, [&]<typename To>(To) {
      launch_kernel(stream, {static_cast<unsigned>(rows.rows), kAppendThreads},
                    kv_append_kernel<From, To>, reinterpret_cast<const From*>(rows.data),
                    rows.stride, slots.data(), elements, reinterpret_cast<To*>(cache.data));
    });
  });
  check_launch(stream, "kv_append");
}

namespace {

constexpr int kMaxMerged = 32;

struct MergeTask {
  int parts;
  Elements from[kMaxMerged];
  int64_t stride[kMaxMerged];
  const float* lse[kMaxMerged];
  int num_heads;
  int64_t v_dim;
};

// A block for each pair of row and head.
template <typename Out>
__global__ void merge_kernel(const __grid_constant__ MergeTask task, Out* out, int64_t stride) {
  follow_previous_kernel();
  const int64_t row = blockIdx.x;
  const int64_t head = blockIdx.y;
  const int64_t of_lse = row * task.num_heads + head;
  float max = -INFINITY;
  for (int p = 0; p < task.parts; ++p) max = fmaxf(max, task.lse[p][of_lse]);
  float total = 0;
  for (int p = 0; max != -INFINITY && p < task.parts; ++p) total += expf(task.lse[p][of_lse] - max);
  for (int64_t i = threadIdx.x; i < task.v_dim; i += blockDim.x) {
    const int64_t column = head * task.v_dim + i;
    float sum = 0;
    for (int p = 0; max != -INFINITY && p < task.parts; ++p) {
      const float weight = expf(task.lse[p][of_lse] - max) / total;
      sum = fmaf(weight, task.from[p].at(row * task.stride[p] + column), sum);
    }
    out[row * stride + column] = from_float<Out>(sum);
  }
}

}  // namespace

void merge_attention(Stream& stream, const MergeAttentionParams& params) {
  const MatrixView& out = params.out;
  CHECK(params.parts.size() == params.part_lses.size() && params.parts.size() <= kMaxMerged);
  CHECK(params.num_heads > 0 && out.columns % params.num_heads == 0);
  if (out.rows == 0) return;
  MergeTask task = {};
  task.parts = static_cast<int>(params.parts.size());
  for (int p = 0; p < task.parts; ++p) {
    const ConstMatrixView& part = params.parts[p];
    CHECK(part.rows == out.rows && part.columns == out.columns);
    task.from[p] = elements_of(part.data, part.dtype);
    task.stride[p] = part.stride;
    task.lse[p] = params.part_lses[p];
  }
  task.num_heads = params.num_heads;
  task.v_dim = out.columns / params.num_heads;
  const dim3 grid(static_cast<unsigned>(out.rows), params.num_heads);
  const unsigned threads = task.v_dim <= 64 ? 64 : 128;
  with_float_type(out.dtype, [&]<typename Out>(Out) {
    launch_kernel(stream, {grid, threads}, merge_kernel<Out>, task,
                  reinterpret_cast<Out*>(out.data), out.stride);
  });
  check_launch(stream, "merge_attention");
}

}  // namespace wideep::kernels::cuda
