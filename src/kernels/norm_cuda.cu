// A block takes a row. Rows of whole 16-byte vectors are read once and stay in registers between
// the sum and the result; others, and very long ones, are read twice.
#include <algorithm>

#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/launch.cuh"

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
  __device__ void load_factors(int64_t column, float (&factors)[kCount]) const {
    if (weight != nullptr) {
      load(weight + column, factors);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) factors[i] = 1;
    }
  }

  template <int kCount>
  __device__ void write(int64_t row, int64_t column, float scale, const float (&factors)[kCount],
                        float (&v)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] *= scale * factors[i];
    store(v, y.at(row, column));
  }

  __device__ float scale_of(float sum) const {
    return rsqrtf(sum / static_cast<float>(columns) + eps);
  }
};

// Norms of as many rows, which share a launch: a block has row blockIdx.x of norm blockIdx.y.
template <typename Norm, int kCount>
struct Norms {
  Norm of[kCount];
};

// Of a thread: vectors threadIdx.x + i * blockDim.x.
template <int kVectors, int kCount, typename Norm>
__global__ void __launch_bounds__(kMaxThreads)
    norm_once_kernel(const __grid_constant__ Norms<Norm, kCount> norms) {
  const Norm& norm = norms.of[kCount == 1 ? 0 : blockIdx.y];
  // Weights need not wait for the kernel before, where registers have room for them.
  constexpr bool kEarly = kVectors <= 2;
  float factors[kEarly ? kVectors : 1][kVector];
  if constexpr (kEarly) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t column = (threadIdx.x + i * blockDim.x) * kVector;
      if (column < norm.columns) norm.load_factors(column, factors[i]);
    }
  }
  follow_previous_kernel();
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
    if constexpr (!kEarly) norm.load_factors(column, factors[0]);
    norm.write(blockIdx.x, column, scale, factors[kEarly ? i : 0], v[i]);
  }
}

template <typename Norm>
__global__ void __launch_bounds__(kThreads) norm_twice_kernel(Norm norm) {
  follow_previous_kernel();
  float sum = 0;
  float v[1];
  for (int64_t c = threadIdx.x; c < norm.columns; c += kThreads) {
    norm.read(blockIdx.x, c, v);
    sum += v[0] * v[0];
  }
  const float scale = norm.scale_of(sum_of_block(sum));
  for (int64_t c = threadIdx.x; c < norm.columns; c += kThreads) {
    float factors[1];
    norm.load_factors(c, factors);
    norm.reread(blockIdx.x, c, v);
    norm.write(blockIdx.x, c, scale, factors, v);
  }
}

// kVectors a thread, or twice as many where a row is longer than its threads have room for.
template <int kVectors, typename Norm, int kCount>
void launch_once(Stream& stream, int64_t rows, const Norms<Norm, kCount>& norms) {
  int64_t vectors = 0;
  for (const Norm& norm : norms.of) vectors = std::max(vectors, norm.columns / kVector);
  if constexpr (kVectors < kMaxVectors) {
    if (vectors > kVectors * kMaxThreads) return launch_once<2 * kVectors>(stream, rows, norms);
  }
  const int64_t threads = (vectors + kVectors - 1) / kVectors;
  const auto whole_warps = static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp);
  launch_kernel(stream, {dim3(static_cast<unsigned>(rows), kCount), whole_warps},
                norm_once_kernel<kVectors, kCount, Norm>, norms);
}

// Whether a row fits into the registers of a block.
bool fits_block(bool has_vectors, int64_t columns) {
  return has_vectors && columns % kVector == 0 && columns <= kVector * kMaxVectors * kMaxThreads;
}

template <typename Norm>
void launch(Stream& stream, int64_t rows, bool has_vectors, const Norm& norm) {
  if (fits_block(has_vectors, norm.columns)) {
    launch_once<1>(stream, rows, Norms<Norm, 1>{{norm}});
  } else {
    launch_kernel(stream, {static_cast<unsigned>(rows), kThreads}, norm_twice_kernel<Norm>, norm);
  }
}

// The weight is read in vectors too.
bool is_aligned_or_null(const float* weight) {
  return weight == nullptr || is_aligned(weight);
}

bool has_vectors(const RmsNormParams& params) {
  return has_aligned_rows(params.x) && has_aligned_rows(params.y) &&
         is_aligned_or_null(params.weight);
}

template <typename X, typename Y>
Norm<false, X, float, Y> norm_of(const RmsNormParams& params) {
  return {rows_of<X>(params.x), {},        rows_of<Y>(params.y), params.x.columns,
          params.weight,        params.eps};
}

// Calls body with an X and a Y of the types of x and y.
template <typename Body>
void with_types(const RmsNormParams& params, const Body& body) {
  CHECK(params.x.rows == params.y.rows && params.x.columns == params.y.columns);
  if (params.x.rows == 0) return;
  with_float_type(params.x.dtype, [&]<typename X>(X x) {
    with_float_type(params.y.dtype, [&]<typename Y>(Y y) { body(x, y); });
  });
}

}  // namespace

void rms_norm(Stream& stream, const RmsNormParams& params) {
  with_types(params, [&]<typename X, typename Y>(X, Y) {
    launch(stream, params.x.rows, has_vectors(params), norm_of<X, Y>(params));
    check_launch(stream, "rms_norm");
  });
}

void rms_norm_pair(Stream& stream, const RmsNormParams& first, const RmsNormParams& second) {
  CHECK(first.x.rows == second.x.rows && second.x.columns == second.y.columns);
  CHECK(first.x.dtype == second.x.dtype && first.y.dtype == second.y.dtype);
  if (!fits_block(has_vectors(first), first.x.columns) ||
      !fits_block(has_vectors(second), second.x.columns)) {
    cuda::rms_norm(stream, first);
    cuda::rms_norm(stream, second);
    return;
  }
  with_types(first, [&]<typename X, typename Y>(X, Y) {
    launch_once<1>(
        stream, first.x.rows,
        Norms<Norm<false, X, float, Y>, 2>{{norm_of<X, Y>(first), norm_of<X, Y>(second)}});
    check_launch(stream, "rms_norm_pair");
  });
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
