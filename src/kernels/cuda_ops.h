// The CUDA twins of the ops, called by the ops themselves where the stream is one of CUDA. Each is
// described beside its op. Matrices are kF32 or kBF16, x and y independently; sums are in fp32.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "kernels/attention.h"
#include "kernels/norm.h"

namespace wideep::kernels {

// Whether the twins are in this build. They are only named where it is known, so that a build
// without nvcc needs none:  if constexpr (kHasCuda) if (stream.is_cuda()) return cuda::op(...);
#ifdef WIDEEP_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

namespace cuda {

void attention(Stream& stream, const AttentionParams& params);
void kv_append(Stream& stream, ConstMatrixView rows, std::span<const int64_t> slots,
               const KvCacheView& cache);
void merge_attention(Stream& stream, const MergeAttentionParams& params);

void rms_norm(Stream& stream, const RmsNormParams& params);
void add_rms_norm(Stream& stream, const AddRmsNormParams& params);

}  // namespace cuda
}  // namespace wideep::kernels
