// A block takes a row. Rows of whole 16-byte vectors are read once and stay in registers between
// the sum and the result; others, and very long ones, are read twice.
#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // where a row is read twice
constexpr int kVector = 8;
constexpr int kMaxThreads = 512;  // with vectors: two blocks of them leave 64 registers a thread
constexpr int kMaxVectors = 4;    // of a thread

__device__ float sum_of_block(float value) {
  __shared__ float of_warp[kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  value = lane < blockDim.x / kWarp ? of_warp[lane] : 0;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

// kAdd: residual += x first, and the residual is what is normalised, as its type has it.
template <bool kAdd, typename X, typename R, typename Y>
struct Norm {
  Rows<const X> x;
  Rows<R> residual;
  Rows<Y> y;
  int64_t columns;
  const float* weight;
  float eps;

  // What is normalised.
  template <int kCount>
  __device__ void read(int64_t row, int64_t column, float (&v)[kCount]) const {
    load(x.at(row, column), v);
    if constexpr (kAdd) {
      float sum[kCount];
      load(residual.at(row, column), sum);
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = to_float(from_float<R>(v[i] + sum[i]));
      store(v, residual.at(row, column));
    }
  }

  // The same again, by the thread that read it.
  template <int kCount>
  __device__ void reread(int64_t row, int64_t column, float (&v)[kCount]) const {
    if constexpr (kAdd) {
      load(residual.at(row, column), v);
    } else {
      load(x.at(row, column), v);
    }
  }

  template <int kCount>
  __device__ void write(int64_t row, int64_t column, float scale, float (&v)[kCount]) const {
    float factors[kCount];
    if (weight != nullptr) load(weight + column, factors);
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] *= weight != nullptr ? scale * factors[i] : scale;
    store(v, y.at(row, column));
  }

  __device__ float scale_of(float sum) const {
    return rsqrtf(sum / static_cast<float>(columns) + eps);
  }
};

// Of a thread: vectors threadIdx.x + i * blockDim.x.
template <int kVectors, typename Norm>
__global__ void __launch_bounds__(kMaxThreads) norm_once_kernel(Norm norm) {
  float v[kVectors][kVector];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = (threadIdx.x + i * blockDim.x) * kVector;
    if (column >= norm.columns) break;
    norm.read(blockIdx.x, column, v[i]);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if ((threadIdx.x + i * blockDim.x) * kVector >= norm.columns) break;
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum += v[i][j] * v[i][j];
  }
  const float scale = norm.scale_of(sum_of_block(sum));
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = (threadIdx.x + i * blockDim.x) * kVector;
    if (column >= norm.columns) break;
    norm.write(blockIdx.x, column, scale, v[i]);
  }
}

template <typename Norm>
__global__ void __launch_bounds__(kThreads) norm_twice_kernel(Norm norm) {
  float sum = 0;
  float v[1];
  for (int64_t c = threadIdx.x; c < norm.columns; c += kThreads) {
    norm.read(blockIdx.x, c, v);
    sum += v[0] * v[0];
  }
  const float scale = norm.scale_of(sum_of_block(sum));
  for (int64_t c = threadIdx.x; c < norm.columns; c += kThreads) {
    norm.reread(blockIdx.x, c, v);
    norm.write(blockIdx.x, c, scale, v);
  }
}

// kVectors a thread, or twice as many where a row is longer than its threads have room for.
template <int kVectors, typename Norm>
void launch_once(Stream& stream, int64_t rows, const Norm& norm) {
  const int64_t vectors = norm.columns / kVector;
  if constexpr (kVectors < kMaxVectors) {
    if (vectors > kVectors * kMaxThreads) return launch_once<2 * kVectors>(stream, rows, norm);
  }
  const int64_t threads = (vectors + kVectors - 1) / kVectors;
  norm_once_kernel<kVectors>
      <<<static_cast<unsigned>(rows), static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp),
         0, stream_of(stream)>>>(norm);
}

template <typename Norm>
void launch(Stream& stream, int64_t rows, bool has_vectors, const Norm& norm) {
  if (has_vectors && norm.columns % kVector == 0 &&
      norm.columns <= kVector * kMaxVectors * kMaxThreads) {
    launch_once<1>(stream, rows, norm);
  } else {
    norm_twice_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream_of(stream)>>>(norm);
  }
}

// The weight is read in vectors too.
bool is_aligned_or_null(const float* weight) {
  return weight == nullptr || is_aligned(weight);
}

}  // namespace

void rms_norm(Stream& stream, const RmsNormParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(x.rows == y.rows && x.columns == y.columns);
  if (x.rows == 0) return;
  const bool has_vectors =
      has_aligned_rows(x) && has_aligned_rows(y) && is_aligned_or_null(params.weight);
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const Norm<false, X, float, Y> norm = {rows_of<X>(x), {},        rows_of<Y>(y), x.columns,
                                             params.weight, params.eps};
      launch(stream, x.rows, has_vectors, norm);
    });
  });
  check_launch(stream, "rms_norm");
}

void add_rms_norm(Stream& stream, const AddRmsNormParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& residual = params.residual;
  const MatrixView& y = params.y;
  CHECK(x.rows == y.rows && x.columns == y.columns);
  CHECK(x.rows == residual.rows && x.columns == residual.columns);
  if (x.rows == 0) return;
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(residual) &&
                           has_aligned_rows(y) && is_aligned_or_null(params.weight);
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(residual.dtype, [&]<typename R>(R) {
      with_float_type(y.dtype, [&]<typename Y>(Y) {
        const Norm<true, X, R, Y> norm = {rows_of<X>(x), rows_of<R>(residual), rows_of<Y>(y),
                                          x.columns,     params.weight,        params.eps};
        launch(stream, x.rows, has_vectors, norm);
      });
    });
  });
  check_launch(stream, "add_rms_norm");
}

}  // namespace wideep::kernels::cuda
