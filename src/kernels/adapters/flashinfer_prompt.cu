// Grouped-query attention of prompts, heads of 128, by FlashInfer's FlashAttention-3 kernel over
// pages. Sequences with few rows are left to flashinfer_grouped.cu.
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "kernels/adapters/flashinfer_launch.cuh"

namespace wideep::kernels::adapters {
namespace {

using Bf16 = cutlass::bfloat16_t;
using Params = flashinfer::BatchPrefillPagedParams<Bf16, Bf16, Bf16, int>;

Params params_of(const AttentionParams& from) {
  const KvCacheView& cache = from.cache;
  Params params = {};
  set_prompt_schedule(*from.tables->prompts(), params);
  // The kernel's types have no const.
  params.q_ptr = const_cast<Bf16*>(reinterpret_cast<const Bf16*>(from.q.data));
  params.k_ptr = reinterpret_cast<Bf16*>(cache.data);
  params.v_ptr = params.k_ptr + cache.v_offset;
  params.o_ptr = reinterpret_cast<Bf16*>(from.out.data);
  params.lse_ptr = from.lse;
  params.kv_indices = const_cast<int*>(from.tables->batch().pages);
  params.additional_params.sm_scale = from.scale;
  params.q_stride_n = from.q.stride;
  params.k_stride_n = params.v_stride_n = cache.token_elements();
  params.o_stride_n = from.out.stride;
  params.q_stride_h = params.o_stride_h = kGroupedHeadDim;
  params.k_stride_h = params.v_stride_h = cache.row_dim;
  params.nnz_qo = from.q.rows;
  params.k_page_stride = params.v_page_stride = cache.token_elements() * cache.page_size;
  params.num_qo_heads = from.num_heads;
  params.num_kv_heads = cache.kv_heads;
  params.group_size = from.num_heads / cache.kv_heads;
  params.page_size = cache.page_size;
  params.window_left = -1;
  params.causal = true;
  return params;
}

}  // namespace

void prompt_attention(Stream& stream, const AttentionParams& from) {
  Params params = params_of(from);
  launch(stream, [&](cudaStream_t handle) {
    return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
        kGroupedHeadDim, kGroupedHeadDim, flashinfer::MaskMode::kCausal, false, false,
        flashinfer::DefaultAttention<false>>(params, false, handle);
  });
}

}  // namespace wideep::kernels::adapters
