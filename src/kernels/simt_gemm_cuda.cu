// A block computes 64 rows x 64 outputs from tiles of 16 inputs in shared memory, a thread 4 x 4 of
// them.
#include <cuda_fp8.h>

#include "kernels/cuda_device.cuh"
#include "kernels/launch.cuh"
#include "kernels/linear.h"
#include "kernels/simt_gemm.h"

namespace wideep::kernels {
namespace {

constexpr int kTile = 64;
constexpr int kInputs = 16;
constexpr int kThreads = 256;
constexpr int kOwn = 4;  // rows, and outputs, of a thread

__device__ inline float widened(float value) {
  return value;
}
__device__ inline float widened(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
__device__ inline float widened(__nv_fp8_e4m3 value) {
  return static_cast<float>(value);
}

struct Problem {
  const float* x_scales;  // null where x is floats
  int64_t x_stride;
  int64_t x_scale_stride;
  const std::byte* weight;
  int64_t weight_stride;  // bytes from group to group
  int64_t y_stride;
  int64_t rows;
  int out;
  int in;
  int groups;
  const int* offsets;
  const int* counts;
  int max_rows;
};

// The rows that a block works on.
struct RowTile {
  int64_t begin = 0;
  int64_t end = 0;
  int group = 0;
  int64_t scale_base = 0;  // of row `begin` in x_scales, column block 0
};

// False where the tile has no rows.
__device__ bool find_tile(const Problem& p, RowTile& tile) {
  const int64_t index = blockIdx.y;
  const int blocks = (p.in + kScaleColumns - 1) / kScaleColumns;
  if (p.max_rows > 0) {
    const int tiles = (p.max_rows + kTile - 1) / kTile;
    tile.group = static_cast<int>(index / tiles);
    const int64_t row = index % tiles * kTile;
    tile.begin = int64_t{tile.group} * p.max_rows + row;
    tile.end = int64_t{tile.group} * p.max_rows + min(p.counts[tile.group], p.max_rows);
    tile.scale_base = int64_t{tile.group} * blocks * p.x_scale_stride + row;
  } else {
    tile.begin = index * kTile;
    tile.end = p.rows;
    tile.scale_base = tile.begin;
    if (p.offsets != nullptr) {
      if (tile.begin >= p.offsets[p.groups]) return false;
      int low = 0;  // the last group that begins at or before the tile
      for (int high = p.groups; high - low > 1;) {
        const int middle = (low + high) / 2;
        (p.offsets[middle] <= tile.begin ? low : high) = middle;
      }
      tile.group = low;
    }
  }
  tile.end = min(tile.end, tile.begin + kTile);
  return tile.begin < tile.end;
}

template <typename X, typename W, typename Y>
__global__ __launch_bounds__(kThreads) void simt_gemm_kernel(const X* x, Y* y, Problem p) {
  follow_previous_kernel();
  __shared__ float x_tile[kInputs][kTile + 4];
  __shared__ float w_tile[kInputs][kTile + 4];
  RowTile rows;
  if (!find_tile(p, rows)) return;
  const auto* w = reinterpret_cast<const W*>(p.weight + rows.group * p.weight_stride);
  const auto* w_scales = reinterpret_cast<const float*>(w + int64_t{p.out} * p.in);
  const int scale_columns = (p.in + kScaleColumns - 1) / kScaleColumns;
  const int first_out = static_cast<int>(blockIdx.x) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int own_row = thread / (kTile / kOwn) * kOwn;
  const int own_out = thread % (kTile / kOwn) * kOwn;
  float sums[kOwn][kOwn] = {};
  for (int first = 0; first < p.in; first += kInputs) {
    for (int i = thread; i < kTile * kInputs; i += kThreads) {
      const int input = first + i % kInputs;
      const int place = i / kInputs;
      const int64_t row = rows.begin + place;
      float x_value = 0;
      if (row < rows.end && input < p.in) {
        x_value = widened(x[row * p.x_stride + input]);
        if (p.x_scales != nullptr) {
          x_value *= p.x_scales[rows.scale_base + place +
                                int64_t{input / kScaleColumns} * p.x_scale_stride];
        }
      }
      const int out = first_out + place;
      float w_value = 0;
      if (out < p.out && input < p.in) {
        w_value = widened(w[int64_t{out} * p.in + input]);
        if constexpr (sizeof(W) == 1) {
          w_value *= w_scales[out / kScaleColumns * scale_columns + input / kScaleColumns];
        }
      }
      x_tile[i % kInputs][place] = x_value;
      w_tile[i % kInputs][place] = w_value;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
#pragma unroll
      for (int r = 0; r < kOwn; ++r) {
#pragma unroll
        for (int o = 0; o < kOwn; ++o) {
          sums[r][o] = fmaf(x_tile[i][own_row + r], w_tile[i][own_out + o], sums[r][o]);
        }
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < kOwn; ++r) {
    const int64_t row = rows.begin + own_row + r;
    if (row >= rows.end) return;
    for (int o = 0; o < kOwn; ++o) {
      const int out = first_out + own_out + o;
      if (out < p.out) y[row * p.y_stride + out] = from_float<Y>(sums[r][o]);
    }
  }
}

// Calls body(T{}) with the type of a matrix that may be FP8.
template <typename Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::kF8E4M3) return body(__nv_fp8_e4m3{});
  with_float_type(dtype, body);
}

}  // namespace

void simt_gemm(Stream& stream, const SimtGemmParams& params) {
  const ConstMatrixView& x = params.x.data;
  CHECK((x.dtype == DType::kF8E4M3) == (params.x.scales != nullptr));
  if (x.rows == 0 || params.y.columns == 0 || params.groups == 0) return;
  const Problem problem = {params.x.scales,
                           x.stride,
                           params.x.scale_stride,
                           params.weight,
                           params.stride_bytes,
                           params.y.stride,
                           x.rows,
                           static_cast<int>(params.y.columns),
                           static_cast<int>(x.columns),
                           params.groups,
                           params.offsets,
                           params.counts,
                           static_cast<int>(params.max_rows)};
  const auto tiles = [](int64_t size) { return static_cast<unsigned>((size + kTile - 1) / kTile); };
  const bool is_masked = params.max_rows > 0;
  const dim3 grid(tiles(params.y.columns),
                  is_masked ? params.groups * tiles(params.max_rows) : tiles(x.rows));
  CHECK(grid.y <= 65535);
  with_type(x.dtype, [&]<typename X>(X) {
    with_type(params.dtype, [&]<typename W>(W) {
      with_float_type(params.y.dtype, [&]<typename Y>(Y) {
        launch_kernel(stream, {grid, kThreads}, simt_gemm_kernel<X, W, Y>, x.row<X>(0),
                      params.y.row<Y>(0), problem);
      });
    });
  });
  check_launch(stream, "simt_gemm");
}

}  // namespace wideep::kernels
