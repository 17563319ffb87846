// A product with one tile size: from here on DeepGEMM's headers are seen.
#pragma once

#include <deep_gemm/impls/sm90_bf16_gemm.cuh>
#include <deep_gemm/impls/sm90_fp8_gemm_1d2d.cuh>

#include "kernels/adapters/deep_gemm_launch.cuh"

namespace wideep::kernels {

inline constexpr auto kDense = GemmType::Normal;
inline constexpr auto kContiguous = GemmType::MGroupedContiguousWithPsumLayout;
inline constexpr auto kMasked = GemmType::MGroupedMasked;

template <GemmType kType, typename T>
CUresult multiply_fp8(Stream& stream, const DeepGemmProduct& p) {
  TensorMaps maps;
  const CUresult result = make_maps<T>(stream.context().tensor_maps(), p, maps);
  if (result != CUDA_SUCCESS) return result;
  constexpr auto kKernel = &deep_gemm::sm90_fp8_gemm_1d2d_impl < cute::UMMA::Major::K, 0, 0, 0,
                 kType == kDense ? 1 : kGroupsWithScales, T::kBlockM, T::kBlockN, 128, 128, 128,
                 T::kSwizzleY, T::kStages, 128, T::kMathThreads, T::kMulticast, true, kGemmBlocks,
                 kType, cutlass::bfloat16_t > ;
  // Scales of rows come with every stage; those of weights stay for a tile, one or two rows of
  // them.
  constexpr int kScaleRows = 128 % T::kBlockN == 0 ? 1 : 2;
  const int blocks = (p.in + kScaleColumns - 1) / kScaleColumns;
  const int weight_scales = round_up_to(blocks * kScaleRows * static_cast<int>(sizeof(float)), 8);
  const int shared_memory =
      shared_memory_of<T>() + weight_scales +
      T::kStages * round_up_to(T::kBlockM * static_cast<int>(sizeof(float)), 128);
  CHECK(shared_memory + kSchedulerBytes <= kSharedMemory);
  const float* scales = device_weight(p.weight, p.out, p.in, p.dtype).scales;
  launch<T>(stream, kKernel, shared_memory, const_cast<float*>(scales),
            const_cast<int*>(p.groups_layout), shape_m_of(p), static_cast<uint32_t>(p.out),
            static_cast<uint32_t>(p.in), maps.x, maps.weight, maps.y, maps.x_scales);
  return result;
}

template <GemmType kType, typename T>
CUresult multiply_bf16(Stream& stream, const DeepGemmProduct& p) {
  TensorMaps maps;
  const CUresult result = make_maps<T>(stream.context().tensor_maps(), p, maps);
  if (result != CUDA_SUCCESS) return result;
  constexpr auto kKernel =
      &deep_gemm::sm90_bf16_gemm_impl<cute::UMMA::Major::K, cute::UMMA::Major::K, 0, 0, 0, kGroups,
                                      T::kBlockM, T::kBlockN, 64, 128, 128, T::kSwizzleY,
                                      T::kStages, 128, T::kMathThreads, T::kMulticast, true,
                                      kGemmBlocks, kType, false, cutlass::bfloat16_t>;
  static_assert(shared_memory_of<T>() + kSchedulerBytes <= kSharedMemory);
  launch<T>(stream, kKernel, shared_memory_of<T>(), const_cast<int*>(p.groups_layout),
            shape_m_of(p), static_cast<uint32_t>(p.out), static_cast<uint32_t>(p.in), maps.x,
            maps.weight, maps.y);
  return result;
}

}  // namespace wideep::kernels
