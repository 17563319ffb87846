// A block walks through tiles of 64 outputs. The weights of a tile come through a ring of boxes of
// 128 inputs, fetched by the copy engine as far ahead as shared memory allows, beyond the tile's
// end too; the rows stay in shared memory. Four warpgroups take boxes in turn: one alone would wait
// for each product before it begins the next. What they leave, a product of 128 inputs each, is
// summed by one thread an output, in ascending order, in rounds of so many boxes.
#include <cuda.h>

#include <algorithm>
#include <string>

#include "kernels/adapters/tensor_map.h"
#include "kernels/bulk_copy.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/eight.cuh"
#include "kernels/few_rows_gemm.h"
#include "kernels/launch.cuh"
#include "kernels/linear.h"
#include "kernels/op_context.h"
#include "kernels/shared_barrier.cuh"
#include "kernels/shared_memory.cuh"
#include "kernels/tensor_core.cuh"

namespace wideep::kernels {
namespace {

constexpr int kOutputs = 64;  // of a tile, and of a wgmma
constexpr int kBox = kOutputs * kScaleColumns;
constexpr int kWarpgroups = 4;
constexpr int kMathThreads = 128 * kWarpgroups;
constexpr int kThreads = kMathThreads + 32;  // and a warp that fetches
constexpr int kBoxesOfWarpgroup = 4;         // in a round
constexpr int kRound = kWarpgroups * kBoxesOfWarpgroup;
constexpr int kMostStages = 24;
constexpr int kVector = 16;  // bytes

struct Arguments {
  const void* x;
  int64_t x_stride;
  const float* x_scales;  // of FP8 rows
  int64_t x_scale_stride;
  const float* weight_scales;  // [ceil(out / 128), boxes]
  void* y;
  int64_t y_stride;
  bool y_is_float;
  int rows;
  int out;
  int in;
  int boxes;  // of 128 inputs
  int tiles;
  int stages;
};

struct Barriers {
  uint64_t full[kMostStages];
  uint64_t empty[kMostStages];
};

// Offsets into the block's shared memory.
struct Layout {
  int x;         // [8 * boxes][kRows] vectors
  int x_scales;  // [boxes][kRows]
  int scales;    // [2][boxes][kRows], of x times weight; tiles alternate
  int products;  // [2][kRound][kRows][kOutputs]; rounds alternate
  int barriers;
  int bytes;
};
__host__ __device__ constexpr Layout layout_of(int rows, int boxes, int stages) {
  Layout at{};
  at.x = stages * kBox;
  at.x_scales = at.x + boxes * rows * kScaleColumns;
  at.scales = at.x_scales + boxes * rows * 4;
  at.products = at.scales + 2 * boxes * rows * 4;
  at.barriers = (at.products + 2 * kRound * rows * kOutputs * 4 + 7) / 8 * 8;
  at.bytes = at.barriers + static_cast<int>(sizeof(Barriers));
  return at;
}

__device__ void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Describes rows as vectors of 16 bytes: those of one input lie side by side, so that the next
// input's are kRows vectors on. A product of 8 rows reads what follows where there are fewer, and
// nobody looks at those.
template <int kRows>
__device__ uint64_t rows_descriptor(const std::byte* vectors) {
  return (shared_address(vectors) >> 4) | static_cast<uint64_t>(kRows) << 16 | uint64_t{8} << 32;
}

// 64 outputs of 8 rows from 32 inputs, added to d or, first, in its place.
__device__ void multiply(float (&d)[4], uint64_t weights, uint64_t rows, bool first) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.eq.u32 add, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, %4, %5, add, 1, 1;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(weights), "l"(rows), "r"(first ? 1 : 0));
}
__device__ void meet_math_threads() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMathThreads) : "memory");
}

// Rows of floats, quantised as quantize_rows() does it: 16 threads have a group of 128.
template <int kRows, typename X>
__device__ void load_rows(const Arguments& a, std::byte* x, float* scales) {
  const int eights = a.boxes * kScaleColumns / 8;
  for (int i = static_cast<int>(threadIdx.x); i < eights * a.rows; i += kMathThreads) {
    const int row = i / eights;
    const int column = i % eights * 8;
    const int count = a.in - column;
    Eight values{};
    const X* from = static_cast<const X*>(a.x) + row * a.x_stride + column;
    if (count > 0) values = load_eight<false>(from, count);
    float largest = largest_magnitude(values);
#pragma unroll
    for (int step = 1; step < 16; step *= 2) {
      const unsigned half = 0xffffU << (threadIdx.x & 16U);
      largest = fmaxf(largest, __shfl_xor_sync(half, largest, step));
    }
    const Fp8Scale scale = fp8_scale(largest);
    std::byte* to = x + (column / kVector * kRows + row) * kVector + column % kVector;
    *reinterpret_cast<uint2*>(to) = to_fp8(values, scale.inverse);
    if (column % kScaleColumns == 0) scales[column / kScaleColumns * kRows + row] = scale.scale;
  }
}
template <int kRows>
__device__ void copy_rows(const Arguments& a, std::byte* x, float* scales) {
  const int vectors = a.boxes * kScaleColumns / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < vectors * a.rows; i += kMathThreads) {
    const int row = i / vectors;
    const int vector = i % vectors;
    const std::byte* from = static_cast<const std::byte*>(a.x) + row * a.x_stride;
    uint4 value = {0, 0, 0, 0};
    if (vector * kVector < a.in) value = reinterpret_cast<const uint4*>(from)[vector];
    reinterpret_cast<uint4*>(x)[vector * kRows + row] = value;
  }
  for (int i = static_cast<int>(threadIdx.x); i < a.boxes * a.rows; i += kMathThreads) {
    const int row = i / a.boxes;
    const int box = i % a.boxes;
    scales[box * kRows + row] = a.x_scales[box * a.x_scale_stride + row];
  }
}

// By one thread: the boxes of this block's tiles, one after the other.
__device__ void fetch_weights(const Arguments& a, const CUtensorMap& weight, std::byte* boxes,
                              Barriers& barriers) {
  int stage = 0;
  uint32_t parity = 1;  // a barrier that nobody has used yet lets this pass
  for (int tile = static_cast<int>(blockIdx.x); tile < a.tiles;
       tile += static_cast<int>(gridDim.x)) {
    for (int box = 0; box < a.boxes; ++box) {
      wait(&barriers.empty[stage], parity);
      expect_bytes(&barriers.full[stage], kBox);
      fetch_box(weight, box * kScaleColumns, tile * kOutputs, boxes + stage * kBox,
                &barriers.full[stage]);
      if (++stage == a.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

// A box of those that went through the ring since the kernel began.
struct Turn {
  int stage;
  uint32_t parity;
};
__device__ Turn turn_of(int number, int stages) {
  return {number % stages, static_cast<uint32_t>(number / stages) & 1U};
}

// The products of this warpgroup's boxes of a round, to `products` [kRound][kRows][kOutputs].
// first_box: of the round, of the tile; number: the same, since the kernel began.
template <int kRows>
__device__ void multiply_round(const Arguments& a, const std::byte* boxes, const std::byte* x,
                               Barriers& barriers, int first_box, int number, float* products) {
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  float sums[kBoxesOfWarpgroup][4] = {};
#pragma unroll
  for (int i = 0; i < kBoxesOfWarpgroup; ++i) {
    const int in_round = i * kWarpgroups + warpgroup;
    // Beyond the last box nothing is waited for, and what comes out is dropped.
    const bool is_there = first_box + in_round < a.boxes;
    const Turn turn = turn_of(number + in_round, a.stages);
    if (is_there) wait(&barriers.full[turn.stage], turn.parity);
    begin_products();
    const uint64_t weights = swizzled_descriptor(boxes + turn.stage * kBox);
    const int box = is_there ? first_box + in_round : 0;
    const uint64_t rows = rows_descriptor<kRows>(x + box * kScaleColumns * kRows);
#pragma unroll
    for (int step = 0; step < kScaleColumns / 32; ++step) {
      multiply(sums[i], weights + step * (32 / kVector), rows + step * (32 / kVector) * kRows,
               step == 0);
    }
    commit_products();
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const auto take = [&]<int kPending>(int i, float(&sum)[4]) {
    wait_products<kPending>(sum);
    const int in_round = i * kWarpgroups + warpgroup;
    if (first_box + in_round >= a.boxes) return;
    if (lane == 0) arrive(&barriers.empty[turn_of(number + in_round, a.stages).stage]);
    const int output = warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = lane % 4 * 2 + j;
      if (row >= kRows) continue;
      float* to = products + (in_round * kRows + row) * kOutputs + output;
      to[0] = sum[j];
      to[8] = sum[j + 2];
    }
  };
  take.template operator()<3>(0, sums[0]);
  take.template operator()<2>(1, sums[1]);
  take.template operator()<1>(2, sums[2]);
  take.template operator()<0>(3, sums[3]);
  static_assert(kBoxesOfWarpgroup == 4);
}

__device__ void store(const Arguments& a, int row, int output, float sum) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(sum);
  const int64_t at = row * a.y_stride + output;
  if (a.y_is_float) {
    static_cast<float*>(a.y)[at] = __bfloat162float(rounded);
  } else {
    static_cast<__nv_bfloat16*>(a.y)[at] = rounded;
  }
}

template <int kRows>
__device__ void multiply_tiles(const Arguments& a, std::byte* memory, const Layout& at,
                               Barriers& barriers) {
  const std::byte* x = memory + at.x;
  const auto* x_scales = reinterpret_cast<const float*>(memory + at.x_scales);
  const int thread = static_cast<int>(threadIdx.x);
  const int own_row = thread / kOutputs;
  int number = 0;
  int round = 0;
  int turn = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < a.tiles;
       tile += static_cast<int>(gridDim.x), turn ^= 1) {
    auto* scales = reinterpret_cast<float*>(memory + at.scales) + turn * a.boxes * kRows;
    const float* of_weight = a.weight_scales + tile * kOutputs / kScaleColumns * a.boxes;
    for (int i = thread; i < a.boxes * kRows; i += kMathThreads) {
      scales[i] = x_scales[i] * of_weight[i / kRows];
    }
    float sum = 0;
    for (int first = 0; first < a.boxes; first += kRound, ++round) {
      auto* products =
          reinterpret_cast<float*>(memory + at.products) + (round & 1) * kRound * kRows * kOutputs;
      multiply_round<kRows>(a, memory, x, barriers, first, number + first, products);
      meet_math_threads();
      if (own_row >= kRows) continue;
      const int count = min(kRound, a.boxes - first);
      for (int i = 0; i < count; ++i) {
        sum = fmaf(scales[(first + i) * kRows + own_row], products[i * kRows * kOutputs + thread],
                   sum);
      }
    }
    number += a.boxes;
    const int output = tile * kOutputs + thread % kOutputs;
    if (own_row < a.rows && output < a.out) store(a, own_row, output, sum);
  }
}

enum class Input { kFloat, kBF16, kFp8 };

template <int kRows, Input kInput>
__global__ void __launch_bounds__(kThreads, 1)
    few_rows_kernel(const __grid_constant__ Arguments a,
                    const __grid_constant__ CUtensorMap weight) {
  extern __shared__ __align__(1024) std::byte memory[];
  const Layout at = layout_of(kRows, a.boxes, a.stages);
  Barriers& barriers = *reinterpret_cast<Barriers*>(memory + at.barriers);
  if (threadIdx.x == 0) {
    for (int s = 0; s < a.stages; ++s) {
      init_barrier(&barriers.full[s], 1);
      init_barrier(&barriers.empty[s], 4);  // the warps of a warpgroup
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  allow_next_kernel();
  if (threadIdx.x >= kMathThreads) {
    // Weights need not wait for the kernel before.
    if (threadIdx.x == kMathThreads) fetch_weights(a, weight, memory, barriers);
    return;
  }
  const float* scales = a.weight_scales + blockIdx.x * kOutputs / kScaleColumns * a.boxes;
  if (static_cast<int>(threadIdx.x) < a.boxes) prefetch(scales + threadIdx.x);
  wait_for_previous_kernel();
  auto* x_scales = reinterpret_cast<float*>(memory + at.x_scales);
  if constexpr (kInput == Input::kFp8) {
    copy_rows<kRows>(a, memory + at.x, x_scales);
  } else if constexpr (kInput == Input::kFloat) {
    load_rows<kRows, float>(a, memory + at.x, x_scales);
  } else {
    load_rows<kRows, __nv_bfloat16>(a, memory + at.x, x_scales);
  }
  fence_shared_for_bulk();  // wgmma reads them
  meet_math_threads();
  multiply_tiles<kRows>(a, memory, at, barriers);
}

int boxes_of(int in) {
  return (in + kScaleColumns - 1) / kScaleColumns;
}
int padded_rows(int64_t rows) {
  return rows <= 2 ? static_cast<int>(rows) : 4;
}

// Stages that fit into so much shared memory.
int stages_in(int shared_memory, int rows, int boxes) {
  return std::min(kMostStages, (shared_memory - layout_of(rows, boxes, 0).bytes) / kBox);
}

template <int kRows, Input kInput>
void launch(const Stream& stream, Arguments a, const CUtensorMap& weight, int num_sms) {
  const auto kernel = few_rows_kernel<kRows, kInput>;
  allow_shared_memory(kernel);
  a.stages = stages_in(kSharedMemory, kRows, a.boxes);
  const int blocks = std::min(a.tiles, num_sms);
  const int bytes = layout_of(kRows, a.boxes, a.stages).bytes;
  launch_kernel(stream, {static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(bytes)},
                kernel, a, weight);
}

template <Input kInput>
void launch_rows(const Stream& stream, const Arguments& a, const CUtensorMap& weight, int num_sms) {
  switch (padded_rows(a.rows)) {
    case 1:
      return launch<1, kInput>(stream, a, weight, num_sms);
    case 2:
      return launch<2, kInput>(stream, a, weight, num_sms);
    default:
      return launch<4, kInput>(stream, a, weight, num_sms);
  }
}

}  // namespace

bool can_multiply_few_rows(const FewRowsParams& params) {
  constexpr int kFewestStages = 6;
  const int64_t rows = params.x.data.rows;
  return rows >= 1 && rows <= kFewRows && params.in % kVector == 0 &&
         stages_in(kSharedMemory, padded_rows(rows), boxes_of(params.in)) >= kFewestStages;
}

void few_rows_gemm(Stream& stream, const FewRowsParams& p) {
  CHECK(can_multiply_few_rows(p));
  const ConstMatrixView& x = p.x.data;
  Arguments a{};
  a.x = x.data;
  a.x_stride = x.stride;
  a.x_scales = p.x.scales;
  a.x_scale_stride = p.x.scale_stride;
  a.weight_scales = device_weight(p.weight, p.out, p.in, DType::kF8E4M3).scales;
  a.y = p.y.data;
  a.y_stride = p.y.stride;
  a.y_is_float = p.y.dtype == DType::kF32;
  a.rows = static_cast<int>(x.rows);
  a.out = p.out;
  a.in = p.in;
  a.boxes = boxes_of(p.in);
  a.tiles = (p.out + kOutputs - 1) / kOutputs;
  CUtensorMap weight;
  const CUresult result = stream.context().tensor_maps().encode(
      {CU_TENSOR_MAP_DATA_TYPE_UINT8, p.weight, p.in, p.out, p.in, kScaleColumns, kOutputs, 128},
      weight);
  if (result != CUDA_SUCCESS) {
    stream.fail(Status::unavailable("CUDA: cuTensorMapEncodeTiled of an FP8 weight [" +
                                    std::to_string(p.out) + ", " + std::to_string(p.in) +
                                    "]: error " + std::to_string(static_cast<int>(result))));
    return;
  }
  const int num_sms = stream.context().num_sms();
  switch (x.dtype) {
    case DType::kF32:
      launch_rows<Input::kFloat>(stream, a, weight, num_sms);
      break;
    case DType::kBF16:
      launch_rows<Input::kBF16>(stream, a, weight, num_sms);
      break;
    default:
      CHECK(x.dtype == DType::kF8E4M3);
      launch_rows<Input::kFp8>(stream, a, weight, num_sms);
  }
  check_launch(stream, "few_rows_gemm");
}

}  // namespace wideep::kernels
