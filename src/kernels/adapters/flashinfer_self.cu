// Self attention of latent models' prompts, keys of 128 + 64 and values of 128 dimensions, by
// FlashInfer's FlashAttention-3 kernel over rows of a matrix.
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "kernels/adapters/flashinfer_launch.cuh"

namespace wideep::kernels::adapters {
namespace {

using Bf16 = cutlass::bfloat16_t;
using Params = flashinfer::BatchPrefillRaggedParams<Bf16, Bf16, Bf16, int>;

Bf16* elements_of(ConstMatrixView matrix) {
  // The kernel's types have no const.
  return const_cast<Bf16*>(reinterpret_cast<const Bf16*>(matrix.data));
}

Params params_of(const SelfAttentionParams& from) {
  Params params = {};
  set_prompt_schedule(*from.tables->self(), params);
  params.q_ptr = elements_of(from.q);
  params.k_ptr = elements_of(from.k);
  params.v_ptr = elements_of(from.v);
  params.o_ptr = elements_of(from.out);
  params.lse_ptr = from.lse;
  params.additional_params.sm_scale = from.scale;
  params.q_stride_n = from.q.stride;
  params.k_stride_n = from.k.stride;
  params.v_stride_n = from.v.stride;
  params.o_stride_n = from.out.stride;
  params.q_stride_h = params.k_stride_h = kSelfKeyDim;
  params.v_stride_h = from.v_step;
  params.o_stride_h = kSelfValueDim;
  params.nnz_qo = params.nnz_kv = from.q.rows;
  params.num_qo_heads = params.num_kv_heads = from.num_heads;
  params.group_size = 1;
  params.window_left = -1;
  params.causal = true;
  return params;
}

bool has_vectors(ConstMatrixView matrix) {
  return matrix.dtype == DType::kBF16 && matrix.stride % 8 == 0 && is_aligned(matrix.data);
}

}  // namespace

void self_attention(Stream& stream, const SelfAttentionParams& from) {
  CHECK(from.k_dim == kSelfKeyDim && from.v_dim == kSelfValueDim && from.v_step % 8 == 0);
  CHECK(has_vectors(from.q) && has_vectors(from.k) && has_vectors(from.v) && has_vectors(from.out));
  Params params = params_of(from);
  launch(stream, [&](cudaStream_t handle) {
    return flashinfer::BatchPrefillWithRaggedKVCacheDispatched<
        kSelfKeyDim, kSelfValueDim, flashinfer::MaskMode::kCausal, false, false,
        flashinfer::DefaultAttention<false>>(params, false, handle);
  });
  to_natural_lse(stream, from.tables->batch(), from.num_heads, from.lse);
}

}  // namespace wideep::kernels::adapters
