// The host's side of DeepGEMM's kernels: shared memory, descriptors, clusters, launch.
#pragma once

#include <deep_gemm/common/types.cuh>

#include <algorithm>

#include "base/cuda.h"
#include "kernels/adapters/deep_gemm.h"
#include "kernels/adapters/deep_gemm_scheduler.cuh"
#include "kernels/adapters/tensor_map.h"
#include "kernels/linear.h"
#include "kernels/op_context.h"
#include "kernels/shared_memory.cuh"

namespace wideep::kernels {

using deep_gemm::GemmType;

// Thread blocks of a launch, a template argument of the kernels: one for each multiprocessor of a
// Hopper GPU. With fewer multiprocessors the rest run after the first, which is slower but right.
inline constexpr int kGemmBlocks = 132;

// The size of a tile of y, and how deep loads run ahead of products.
template <int kM, int kN, int kNumStages, int kNumMulticast = 1>
struct Tile {
  static constexpr int kBlockM = kM;
  static constexpr int kBlockN = kN;
  static constexpr int kStages = kNumStages;
  static constexpr int kMulticast = kNumMulticast;  // blocks of a cluster, which share rows of x
  static constexpr int kMathThreads = kM <= 64 ? 128 : 256;
  static constexpr int kThreads = 128 + kMathThreads;
  // Of a row of a tile of bf16 in shared memory: the widest that divides it.
  static constexpr int kSwizzleY = kN % 64 == 0 ? 128 : kN % 32 == 0 ? 64 : 32;
  static_assert(kN % 16 == 0);
};

constexpr int round_up_to(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

// Of a tile of y, of the stages' tiles of x and weights (128 bytes of inputs each), their barriers.
template <typename T>
constexpr int shared_memory_of() {
  return round_up_to(T::kBlockM * T::kBlockN * 2, 1024) +
         T::kStages * ((T::kBlockM + T::kBlockN) * 128 + 2 * static_cast<int>(sizeof(uint64_t)));
}

struct TensorMaps {
  CUtensorMap x;
  CUtensorMap weight;
  CUtensorMap y;
  CUtensorMap x_scales;  // FP8 only
};

// Rows from one weight of a group to the next.
inline int64_t weight_rows(const DeepGemmProduct& p) {
  return device_weight_bytes(p.out, p.in, p.dtype) / (int64_t{p.in} * dtype_size(p.dtype));
}

template <typename T>
CUresult make_maps(const TensorMapEncoder& encoder, const DeepGemmProduct& p, TensorMaps& maps) {
  const bool is_fp8 = p.dtype == DType::kF8E4M3;
  const int size = dtype_size(p.dtype);
  const auto type = is_fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int inputs = 128 / size;
  const ConstMatrixView& x = p.x.data;
  CUresult result = encoder.encode(
      {type, x.data, p.in, x.rows, x.stride * size, inputs, T::kBlockM, 128}, maps.x);
  if (result != CUDA_SUCCESS) return result;
  const int64_t rows =
      p.layout == DeepGemmProduct::Layout::kDense ? p.out : p.groups * weight_rows(p);
  result = encoder.encode(
      {type, p.weight, p.in, rows, int64_t{p.in} * size, inputs, T::kBlockN, 128}, maps.weight);
  if (result != CUDA_SUCCESS) return result;
  result = encoder.encode({CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p.y.data, p.out, p.y.rows,
                           p.y.stride * 2, T::kSwizzleY / 2, T::kBlockM, T::kSwizzleY},
                          maps.y);
  if (result != CUDA_SUCCESS || !is_fp8) return result;
  const bool is_masked = p.layout == DeepGemmProduct::Layout::kMasked;
  const int64_t batches = is_masked ? p.groups : 1;
  const int64_t blocks = (p.in + kScaleColumns - 1) / kScaleColumns;
  const int64_t rows_of_batch = is_masked ? p.max_rows : (x.rows + 3) / 4 * 4;
  return encoder.encode(
      {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, p.x.scales, rows_of_batch, batches * blocks,
       p.x.scale_stride * static_cast<int64_t>(sizeof(float)), T::kBlockM, 1, 0},
      maps.x_scales);
}

// What the scheduler is told in place of a number of rows.
inline uint32_t shape_m_of(const DeepGemmProduct& p) {
  switch (p.layout) {
    case DeepGemmProduct::Layout::kContiguous:
      return static_cast<uint32_t>(p.groups);
    case DeepGemmProduct::Layout::kMasked:
      return masked_shape_m(static_cast<uint32_t>(p.groups), static_cast<uint32_t>(p.max_rows));
    default:
      return static_cast<uint32_t>(p.x.data.rows);
  }
}

template <typename T, typename Kernel, typename... Arguments>
void launch(Stream& stream, Kernel kernel, int shared_memory, Arguments... arguments) {
  allow_shared_memory(kernel);
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {T::kMulticast, 1, 1};
  // They begin with a wait for the kernel before, see kernels/launch.cuh.
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kGemmBlocks);
  config.blockDim = dim3(T::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_memory);
  config.stream = stream_of(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Whether the product's sizes allow the tile.
template <typename T>
bool allows_multicast(const DeepGemmProduct& p) {
  return T::kMulticast == 1 || (p.out + T::kBlockN - 1) / T::kBlockN % T::kMulticast == 0;
}

}  // namespace wideep::kernels
