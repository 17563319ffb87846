// A group of 128 columns belongs to 16 adjacent threads, which hold 8 columns each; a block walks
// through rows of one batch.
#include <algorithm>

#include "kernels/cuda_ops.h"
#include "kernels/eight.cuh"
#include "kernels/launch.cuh"
#include "kernels/quantize.h"

namespace wideep::kernels {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kThreadsOfGroup = kScaleColumns / 8;

// Where FP8 rows go, on the device.
struct Output {
  uint8_t* data;
  float* scales;
  int64_t columns;
  int64_t scale_stride;
  int batch_rows;
  const int* counts;

  __device__ int rows_of_batch(int batch) const {
    return counts != nullptr ? min(counts[batch], batch_rows) : batch_rows;
  }
  // The scale of column block `block` of row `row` of the batch.
  __device__ float& scale(int batch, int row, int64_t block) const {
    const int64_t blocks = (columns + kScaleColumns - 1) / kScaleColumns;
    return scales[(batch * blocks + block) * scale_stride + row];
  }
};

__device__ inline void store_fp8(const uint2& eight, uint8_t* to, int64_t count) {
  if (count > 0) *reinterpret_cast<uint2*>(to) = eight;  // columns come in sixteens
}

__device__ inline float silu(float x) {
  return x / (1.0F + __expf(-x));
}

// load(row, column, count): eight elements of a row of the rows of all batches.
template <typename Load>
__device__ void quantize_batch(const Output& y, const Load& load) {
  const int batch = static_cast<int>(blockIdx.y);
  const int rows = y.rows_of_batch(batch);
  const int64_t padded = (y.columns + kScaleColumns - 1) / kScaleColumns * kScaleColumns;
  for (int row = static_cast<int>(blockIdx.x); row < rows; row += static_cast<int>(gridDim.x)) {
    const int64_t r = int64_t{batch} * y.batch_rows + row;
    for (int64_t column = threadIdx.x * 8; column < padded; column += blockDim.x * 8) {
      const int64_t count = y.columns - column;
      const Eight values = load(r, column, count);
      float largest = largest_magnitude(values);
#pragma unroll
      for (int step = 1; step < kThreadsOfGroup; step *= 2) {
        // Groups of 16 threads stay together, halves of a warp may part.
        const unsigned half = 0xffffU << (threadIdx.x & 16U);
        largest = fmaxf(largest, __shfl_xor_sync(half, largest, step));
      }
      const Fp8Scale scale = fp8_scale(largest);
      store_fp8(to_fp8(values, scale.inverse), y.data + r * y.columns + column, count);
      if (threadIdx.x % kThreadsOfGroup == 0) {
        y.scale(batch, row, column / kScaleColumns) = scale.scale;
      }
    }
  }
}

template <bool kVector, typename X>
__global__ void quantize_kernel(const X* x, int64_t stride, Output y) {
  follow_previous_kernel();
  quantize_batch(y, [&](int64_t row, int64_t column, int64_t count) {
    if (count <= 0) return Eight{};
    return load_eight<kVector>(x + row * stride + column, count);
  });
}

template <bool kVector, typename X>
__global__ void silu_mul_quantize_kernel(const X* x, int64_t stride, Output y) {
  follow_previous_kernel();
  quantize_batch(y, [&](int64_t row, int64_t column, int64_t count) {
    if (count <= 0) return Eight{};
    const X* gate = x + row * stride + column;
    Eight result = load_eight<kVector>(gate, count);
    const Eight up = load_eight<kVector>(gate + y.columns, count);
#pragma unroll
    for (int i = 0; i < 8; ++i) result.value[i] = silu(result.value[i]) * up.value[i];
    return result;
  });
}

struct Gather {
  const int* pairs;
  int top_k;
  const float* scales;
};

template <bool kVector, typename X>
__global__ void gather_quantize_kernel(const X* x, int64_t stride, Gather gather, Output y) {
  follow_previous_kernel();
  quantize_batch(y, [&](int64_t row, int64_t column, int64_t count) {
    const int pair = gather.pairs[row];
    if (pair < 0 || count <= 0) return Eight{};
    Eight result = load_eight<kVector>(x + (pair / gather.top_k) * stride + column, count);
    if (gather.scales != nullptr) {
      const float scale = gather.scales[pair];
#pragma unroll
      for (int i = 0; i < 8; ++i) result.value[i] *= scale;
    }
    return result;
  });
}

// A block takes 32 rows x 32 column blocks through shared memory: both sides read and write lines.
constexpr int kTile = 32;
__global__ void arrange_scales_kernel(const float* x, int64_t stride, int blocks, Output y) {
  follow_previous_kernel();
  __shared__ float tile[kTile][kTile + 1];
  const int batch = static_cast<int>(blockIdx.z);
  const int rows = y.rows_of_batch(batch);
  const int first_row = static_cast<int>(blockIdx.x) * kTile;
  if (first_row >= rows) return;
  const int first_block = static_cast<int>(blockIdx.y) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += static_cast<int>(blockDim.y)) {
    if (first_row + i < rows && first_block + thread < blocks) {
      const int64_t row = int64_t{batch} * y.batch_rows + first_row + i;
      tile[i][thread] = x[row * stride + first_block + thread];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += static_cast<int>(blockDim.y)) {
    if (first_block + i < blocks && first_row + thread < rows) {
      y.scale(batch, first_row + thread, first_block + i) = tile[thread][i];
    }
  }
}

Output output_of(const QuantizedRows& y, const int* counts) {
  CHECK(y.data.dtype == DType::kF8E4M3 && y.data.stride == y.data.columns);
  CHECK(y.data.columns % 16 == 0 && y.batch_rows > 0 && y.data.rows % y.batch_rows == 0);
  CHECK(y.batch_rows <= y.scale_stride);
  return {reinterpret_cast<uint8_t*>(y.data.data), y.scales, y.data.columns, y.scale_stride,
          static_cast<int>(y.batch_rows),          counts};
}

struct Launch {
  dim3 grid;
  unsigned threads;
};

// Enough blocks to fill the device; where counts are on the device, rows are a bound only, and
// blocks without rows should be few.
Launch launch_of(const Stream& stream, const QuantizedRows& y) {
  const int64_t batches = y.data.rows / y.batch_rows;
  const int64_t eights = (y.data.columns + 7) / 8;
  const int64_t threads = std::min<int64_t>(kMaxThreads, (eights + 31) / 32 * 32);
  const int64_t wanted = int64_t{stream.context().num_sms()} * 2 * (2048 / threads);
  const int64_t blocks = std::clamp<int64_t>((wanted + batches - 1) / batches, 1, y.batch_rows);
  return {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(batches)),
          static_cast<unsigned>(threads)};
}

// Calls body(x, vector) with a pointer of x's type and true_type or false_type.
template <typename Body>
void with_rows(const ConstMatrixView& x, const Body& body) {
  with_float_type(x.dtype, [&]<typename X>(X) {
    const X* rows = x.row<X>(0);
    if (is_vectorizable(x)) {
      body(rows, std::true_type());
    } else {
      body(rows, std::false_type());
    }
  });
}

}  // namespace

void quantize_rows(Stream& stream, const QuantizeParams& params) {
  CHECK(stream.is_cuda());
  const auto& [x, counts, y] = params;
  CHECK(x.rows == y.data.rows && x.columns == y.data.columns);
  if (x.rows == 0) return;
  const Output output = output_of(y, counts);
  const auto [grid, threads] = launch_of(stream, y);
  with_rows(x, [&]<typename X, typename Vector>(const X* rows, Vector) {
    launch_kernel(stream, {grid, threads}, quantize_kernel<Vector::value, X>, rows, params.x.stride,
                  output);
  });
  check_launch(stream, "quantize_rows");
}

void silu_mul_quantize(Stream& stream, const QuantizeParams& params) {
  CHECK(stream.is_cuda());
  const auto& [x, counts, y] = params;
  CHECK(x.rows == y.data.rows && x.columns == 2 * y.data.columns);
  if (x.rows == 0) return;
  const Output output = output_of(y, counts);
  const auto [grid, threads] = launch_of(stream, y);
  with_rows(x, [&]<typename X, typename Vector>(const X* rows, Vector) {
    launch_kernel(stream, {grid, threads}, silu_mul_quantize_kernel<Vector::value, X>, rows,
                  params.x.stride, output);
  });
  check_launch(stream, "silu_mul_quantize");
}

void gather_quantize(Stream& stream, const GatherQuantizeParams& params) {
  CHECK(stream.is_cuda() && params.top_k > 0 && params.x.columns == params.y.data.columns);
  if (params.y.data.rows == 0) return;
  const Output output = output_of(params.y, params.counts);
  const auto [grid, threads] = launch_of(stream, params.y);
  const Gather gather = {params.pairs, params.top_k, params.scales};
  with_rows(params.x, [&]<typename X, typename Vector>(const X* rows, Vector) {
    launch_kernel(stream, {grid, threads}, gather_quantize_kernel<Vector::value, X>, rows,
                  params.x.stride, gather, output);
  });
  check_launch(stream, "gather_quantize");
}

void arrange_scales(Stream& stream, const QuantizeParams& params) {
  CHECK(stream.is_cuda());
  const auto& [x, counts, y] = params;
  const int64_t blocks = (y.data.columns + kScaleColumns - 1) / kScaleColumns;
  CHECK(x.dtype == DType::kF32 && x.rows == y.data.rows && x.columns == blocks);
  if (x.rows == 0) return;
  const auto tiles = [](int64_t size) { return static_cast<unsigned>((size + kTile - 1) / kTile); };
  const dim3 grid(tiles(y.batch_rows), tiles(blocks),
                  static_cast<unsigned>(y.data.rows / y.batch_rows));
  launch_kernel(stream, {grid, dim3(kTile, 8)}, arrange_scales_kernel, x.row<float>(0), x.stride,
                static_cast<int>(blocks), output_of(y, counts));
  check_launch(stream, "arrange_scales");
}

}  // namespace wideep::kernels
