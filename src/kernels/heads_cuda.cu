#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kCopyVector = 8;
constexpr int kNormVector = 4;  // a warp takes a head of 128 in one step
constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr int kHeadsAtOnce = 4;

template <typename X, typename Y>
struct CopyHeads {
  Rows<const X> x;
  int64_t x_head_stride;
  Rows<Y> y;
  int64_t y_head_stride;
  uint32_t num_heads;

  template <int kCount>
  __device__ void run(uint32_t head_of_all, int64_t column) const {
    const uint32_t row = head_of_all / num_heads;
    const uint32_t head = head_of_all % num_heads;
    float values[kCount];
    load(x.at(row, head * x_head_stride + column), values);
    store(values, y.at(row, head * y_head_stride + column));
  }
};

struct Head {
  int64_t stride;
  uint32_t num_heads;
  int width;
  const float* weight;
  float eps;
};

__device__ float sum_of_warp(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

__device__ uint32_t warp_of_grid() {
  return blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;
}

template <typename X>
__device__ X* head_at(const Rows<X>& x, const Head& head, uint32_t i) {
  return x.at(i / head.num_heads, i % head.num_heads * head.stride);
}

template <int kVector>
__device__ void scale_vector(const Head& head, float sum, const float (&weight)[kVector],
                             float (&v)[kVector]) {
  const float scale = rsqrtf(sum / static_cast<float>(head.width) + head.eps);
#pragma unroll
  for (int j = 0; j < kVector; ++j) v[j] *= scale * weight[j];
}

template <int kVector>
__device__ void load_weight(const Head& head, int column, float (&weight)[kVector]) {
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    weight[j] = head.weight != nullptr ? head.weight[column + j] : 1;
  }
}

// Heads of at most one vector a lane: a warp has several of them in flight.
template <typename X>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    norm_short_heads_kernel(Rows<X> x, uint32_t count, Head head) {
  follow_previous_kernel();
  const uint32_t first = warp_of_grid() * kHeadsAtOnce;
  const int column = static_cast<int>(threadIdx.x) % kWarp * kNormVector;
  const bool has_vector = column < head.width;
  X* at[kHeadsAtOnce];
  Packed<X, kNormVector> packed[kHeadsAtOnce] = {};
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    at[h] = head_at(x, head, min(first + h, count - 1)) + column;
    if (has_vector) packed[h] = load_packed<kNormVector>(at[h]);
  }
  float weight[kNormVector] = {};
  if (has_vector) load_weight(head, column, weight);
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    float v[kNormVector];
    widen(packed[h], v);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kNormVector; ++j) sum += v[j] * v[j];
    sum = sum_of_warp(sum);
    scale_vector(head, sum, weight, v);
    if (first + h < count && has_vector) store(v, at[h]);
  }
}

// A warp for each head of each row.
template <int kVector, typename X>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    norm_heads_kernel(Rows<X> x, uint32_t count, Head head) {
  follow_previous_kernel();
  const uint32_t i = warp_of_grid();
  if (i >= count) return;
  const int first = static_cast<int>(threadIdx.x) % kWarp * kVector;
  X* values = head_at(x, head, i);
  float v[kVector];
  float sum = 0;
  for (int c = first; c < head.width; c += kWarp * kVector) {
    load(values + c, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum += v[j] * v[j];
  }
  sum = sum_of_warp(sum);
  // The second read finds the head in the L1 cache.
  for (int c = first; c < head.width; c += kWarp * kVector) {
    float weight[kVector];
    load(values + c, v);
    load_weight(head, c, weight);
    scale_vector(head, sum, weight, v);
    store(v, values + c);
  }
}

}  // namespace

void copy_heads(Stream& stream, const CopyHeadsParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(x.rows == y.rows);
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(y) &&
                           params.x_head_stride % kCopyVector == 0 &&
                           params.y_head_stride % kCopyVector == 0;
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const CopyHeads<X, Y> op = {rows_of<X>(x), params.x_head_stride, rows_of<Y>(y),
                                  params.y_head_stride, static_cast<uint32_t>(params.num_heads)};
      map_rows<kCopyVector>(stream, "copy_heads", x.rows * params.num_heads, params.width,
                            has_vectors, op);
    });
  });
}

void norm_heads(Stream& stream, const NormHeadsParams& params) {
  const MatrixView& x = params.x;
  const int64_t count = x.rows * params.num_heads;
  if (count == 0) return;
  const bool has_vectors = has_aligned_rows(x) && params.head_stride % kNormVector == 0 &&
                           params.width % kNormVector == 0;
  CHECK(count <= std::numeric_limits<int32_t>::max());
  const Head head = {params.head_stride, static_cast<uint32_t>(params.num_heads), params.width,
                     params.weight, params.eps};
  const bool is_short = has_vectors && params.width <= kWarp * kNormVector;
  const int of_block = is_short ? kWarpsPerBlock * kHeadsAtOnce : kWarpsPerBlock;
  const auto blocks = static_cast<unsigned>((count + of_block - 1) / of_block);
  with_float_type(x.dtype, [&]<typename X>(X) {
    auto kernel = has_vectors ? norm_heads_kernel<kNormVector, X> : norm_heads_kernel<1, X>;
    if (is_short) kernel = norm_short_heads_kernel<X>;
    launch_kernel(stream, {blocks, kWarp * kWarpsPerBlock}, kernel, rows_of<X>(x),
                  static_cast<uint32_t>(count), head);
  });
  check_launch(stream, "norm_heads");
}

}  // namespace wideep::kernels::cuda
