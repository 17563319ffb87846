// The compiled kernels of DeepGEMM, and one of our own from its parts; deep_gemm.cc calls them.
#pragma once

#include <cuda.h>

#include "kernels/adapters/deep_gemm.h"

namespace wideep::kernels {

#ifdef WIDEEP_DEEPGEMM
inline constexpr bool kHasDeepGemm = true;
#else
inline constexpr bool kHasDeepGemm = false;
#endif

// The scheduler gets both in 32 bits.
inline constexpr int kMaxRowsBits = 20;
inline constexpr uint32_t kMaxMaskedRows = (1U << kMaxRowsBits) - 1;
inline constexpr int kMaxGemmGroups = (1 << (32 - kMaxRowsBits)) - 1;

// What the driver said of the descriptors; CUDA_SUCCESS: launched.
CUresult multiply_dense(Stream& stream, const DeepGemmProduct& p);
CUresult multiply_contiguous(Stream& stream, const DeepGemmProduct& p);
CUresult multiply_masked(Stream& stream, const DeepGemmProduct& p);
// FP8 groups by tiles that have as many rows as the group needs, in steps of 64; contiguous or
// masked.
CUresult multiply_fitted(Stream& stream, const DeepGemmProduct& p);
// Outputs come in pairs of 128.
bool can_multiply_fitted(const DeepGemmProduct& p);

}  // namespace wideep::kernels
