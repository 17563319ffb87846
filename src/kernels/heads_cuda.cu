#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kCopyVector = 8;
constexpr int kNormVector = 4;  // a warp takes a head of 128 in one step
constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;

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
  int num_heads;
  int width;
  const float* weight;
  float eps;
};

// A warp for each head of each row.
template <int kVector, typename X>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    norm_heads_kernel(Rows<X> x, int64_t count, Head head) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  if (i >= count) return;
  const int first = static_cast<int>(threadIdx.x) % kWarp * kVector;
  X* values = x.at(i / head.num_heads, i % head.num_heads * head.stride);
  float v[kVector];
  float sum = 0;
  for (int c = first; c < head.width; c += kWarp * kVector) {
    load(values + c, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum += v[j] * v[j];
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  }
  const float scale = rsqrtf(sum / static_cast<float>(head.width) + head.eps);
  // Heads are short: the second read finds them in the L1 cache.
  for (int c = first; c < head.width; c += kWarp * kVector) {
    load(values + c, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      v[j] *= head.weight != nullptr ? scale * head.weight[c + j] : scale;
    }
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
  const Head head = {params.head_stride, params.num_heads, params.width, params.weight, params.eps};
  const auto blocks = static_cast<unsigned>((count + kWarpsPerBlock - 1) / kWarpsPerBlock);
  with_float_type(x.dtype, [&]<typename X>(X) {
    const auto kernel = has_vectors ? norm_heads_kernel<kNormVector, X> : norm_heads_kernel<1, X>;
    kernel<<<blocks, kWarp * kWarpsPerBlock, 0, stream_of(stream)>>>(rows_of<X>(x), count, head);
  });
  check_launch(stream, "norm_heads");
}

}  // namespace wideep::kernels::cuda
