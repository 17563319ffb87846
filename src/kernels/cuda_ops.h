// The CUDA twins of the ops, called by the ops themselves where the stream is one of CUDA. Each is
// described beside its op. Matrices are kF32 or kBF16, x and y independently; sums are in fp32.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/heads.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/position_factors.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/sampling.h"
#include "kernels/self_attention.h"
#include "kernels/transfer.h"

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
void self_attention(Stream& stream, const SelfAttentionParams& params);

void embedding(Stream& stream, ConstMatrixView table, std::span<const int> ids, MatrixView y);
void silu_mul(Stream& stream, ConstMatrixView x, MatrixView y, const int* num_rows);
void add(Stream& stream, ConstMatrixView x, MatrixView y);
void add_bias(Stream& stream, const float* bias, MatrixView y);
void scale_rows(Stream& stream, std::span<const float> factors, MatrixView x);

// Multiples of 16 bytes.
void copy_pair(Stream& stream, const CopyPiece& first, const CopyPiece& second);

void copy_heads(Stream& stream, const CopyHeadsParams& params);
void norm_heads(Stream& stream, const NormHeadsParams& params);

void linear(Stream& stream, ConstMatrixView x, const PackedWeight& weight, MatrixView y);
void head_linear(Stream& stream, const HeadLinearParams& params);

void rms_norm(Stream& stream, const RmsNormParams& params);
void rms_norm_pair(Stream& stream, const RmsNormParams& first, const RmsNormParams& second);
void add_rms_norm(Stream& stream, const AddRmsNormParams& params);
void position_factors(Stream& stream, const PositionFactorsParams& params);

void make_permutation(Stream& stream, const PermutationParams& params);
void gather_rows(Stream& stream, const GatherRowsParams& params);
void combine_rows(Stream& stream, const CombineRowsParams& params);

void rope_table(Stream& stream, const RopeTableParams& params);
void rope(Stream& stream, const RopeParams& params);

void route(Stream& stream, const RouterParams& params);

Result<std::unique_ptr<Sampler>> make_sampler(int64_t max_rows);
void take_sampled(Stream& stream, const int* sampled, std::span<int> ids);

}  // namespace cuda
}  // namespace wideep::kernels
