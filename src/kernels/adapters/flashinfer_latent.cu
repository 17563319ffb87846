// Multi-head latent attention, 512 + 64 dimensions, by FlashInfer's kernel for Hopper: prefill and
// decode in one, both absorbed. It reads LatentSchedule's tables as its plan, and merges the pieces
// of a tile in the same launch, which is cooperative.
#include <flashinfer/attention/mla_hopper.cuh>

#include "kernels/adapters/flashinfer_launch.cuh"

namespace wideep::kernels::adapters {
namespace {

using Bf16 = __nv_bfloat16;
using Params = flashinfer::MLAParams<Bf16, Bf16, Bf16, int>;

void set_schedule(const LatentSchedule& schedule, Params& params) {
  params.q_indptr = schedule.first_row;
  params.kv_indptr = schedule.first_page;
  params.partial_indptr = schedule.partial;
  params.q_len = schedule.num_rows;
  params.kv_len = schedule.keys;
  params.q_start = schedule.first_pair;
  params.kv_start = schedule.begin_key;
  params.kv_end = schedule.end_key;
  params.work_indptr = schedule.group_begin;
  params.merge_packed_offset_start = schedule.merge_begin;
  params.merge_packed_offset_end = schedule.merge_end;
  params.merge_partial_packed_offset_start = schedule.merge_partial;
  params.merge_partial_packed_offset_end = schedule.merge_partial_end;
  params.merge_partial_stride = schedule.merge_stride;
}

void set_strides(const AttentionParams& from, Params& params) {
  const KvCacheView& cache = from.cache;
  params.block_size = flashinfer::uint_fastdiv(cache.page_size);
  params.num_heads = flashinfer::uint_fastdiv(from.num_heads);
  params.q_nope_stride_n = params.q_pe_stride_n = static_cast<uint32_t>(from.q.stride);
  params.q_nope_stride_h = params.q_pe_stride_h = kLatentKeyDim;
  params.ckv_stride_n = params.kpe_stride_n = cache.row_dim;
  params.ckv_stride_page = params.kpe_stride_page = cache.row_dim * cache.page_size;
  params.o_stride_n = static_cast<uint32_t>(from.out.stride);
  params.o_stride_h = kLatentValueDim;
}

}  // namespace

bool takes_latent(const AttentionParams& params) {
  const KvCacheView& cache = params.cache;
  return params.tables->latent() != nullptr && params.q.dtype == DType::kBF16 &&
         params.out.dtype == DType::kBF16 && cache.dtype == DType::kBF16 && cache.v_offset == 0 &&
         cache.row_dim % 8 == 0 && params.q.stride % 8 == 0 && params.out.stride % 8 == 0 &&
         is_aligned(params.q.data) && is_aligned(params.out.data) && is_aligned(cache.data);
}

void latent_attention(Stream& stream, const AttentionParams& from) {
  const LatentSchedule& schedule = *from.tables->latent();
  const OpContext& context = stream.context();
  Params params = {};
  // The kernel's types have no const.
  params.q_nope = const_cast<Bf16*>(from.q.row<Bf16>(0));
  params.q_pe = params.q_nope + kLatentValueDim;
  params.ckv = reinterpret_cast<Bf16*>(from.cache.data);
  params.kpe = params.ckv + kLatentValueDim;
  const int64_t partial_rows = schedule.max_partial_rows();
  params.partial_o = context.workspace<Bf16>(partial_rows * kLatentValueDim).data();
  params.partial_lse =
      context.workspace<float>(partial_rows, partial_rows * kLatentValueDim * int64_t{sizeof(Bf16)})
          .data();
  params.final_o = from.out.row<Bf16>(0);
  params.final_lse = from.lse;
  params.kv_indices = const_cast<int*>(from.tables->batch().pages);
  params.sm_scale = from.scale;
  params.return_lse_base_on_e = true;
  set_schedule(schedule, params);
  set_strides(from, params);
  launch(stream, [&](cudaStream_t handle) {
    return flashinfer::mla::BatchMLAPageAttentionHopper<flashinfer::MaskMode::kCausal,
                                                        kLatentValueDim, kLatentRopeDim>(
        params, schedule.blocks_of_group, schedule.groups, handle);
  });
}

}  // namespace wideep::kernels::adapters
