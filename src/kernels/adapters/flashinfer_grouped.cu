// Grouped-query attention of heads of 128 by FlashInfer's kernel for prefill, which serves decode
// as well: the query heads of a group fill the rows of a matrix product. It reads GroupedSchedule's
// tables as its plan; where that is split, a second kernel merges the chunks.
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>

#include "kernels/adapters/flashinfer_launch.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels::adapters {
namespace {

using Bf16 = __nv_bfloat16;
using Params = flashinfer::BatchPrefillPagedParams<Bf16, Bf16, Bf16, int>;
using Variant = flashinfer::DefaultAttention<false, false, false, false>;

// A few blocks for each sequence. The kernels' sums are to base 2, and stand at their own least
// value where no key was seen.
__global__ void natural_lse_kernel(AttentionBatch batch, int num_heads, float* lse) {
  follow_previous_kernel();
  const int64_t begin = int64_t{batch.first_row[blockIdx.x]} * num_heads;
  const int64_t end = begin + int64_t{batch.rows[blockIdx.x]} * num_heads;
  const int64_t step = int64_t{gridDim.y} * blockDim.x;
  for (int64_t i = begin + blockIdx.y * blockDim.x + threadIdx.x; i < end; i += step) {
    const float value = lse[i];
    lse[i] = value <= -flashinfer::math::inf / 2 ? -INFINITY : value * flashinfer::math::loge2;
  }
}

Params params_of(const AttentionParams& from) {
  const GroupedSchedule& schedule = *from.tables->grouped();
  const AttentionBatch& batch = from.tables->batch();
  const KvCacheView& cache = from.cache;
  // The kernel's types have no const.
  auto* keys = reinterpret_cast<Bf16*>(cache.data);
  const int64_t strides[] = {cache.token_elements() * cache.page_size, cache.token_elements(),
                             cache.row_dim};
  const flashinfer::paged_kv_t<Bf16, int> paged(
      cache.kv_heads, cache.page_size, kGroupedHeadDim, batch.num_sequences,
      flashinfer::QKVLayout::kNHD, keys, keys + cache.v_offset, strides,
      const_cast<int*>(batch.pages), const_cast<int*>(batch.first_page), schedule.last_page_keys);
  Params params(const_cast<Bf16*>(from.q.row<Bf16>(0)), paged, nullptr,
                const_cast<int*>(batch.first_row), nullptr, nullptr, from.out.row<Bf16>(0),
                from.lse, nullptr, from.num_heads, static_cast<int>(from.q.stride), kGroupedHeadDim,
                -1, 0, from.scale, 1, 1);
  params.request_indices = schedule.sequence;
  params.qo_tile_indices = schedule.tile;
  params.kv_tile_indices = schedule.chunk;
  params.block_valid_mask = schedule.is_valid;
  params.o_indptr = schedule.row_begin;
  params.merge_indptr = schedule.merge_begin;
  params.kv_chunk_size_ptr = schedule.chunk_keys;
  params.max_total_num_rows = batch.num_rows;
  params.padded_batch_size = schedule.grid;
  return params;
}

template <uint32_t kTilePairs>
cudaError_t launch_tiles(const Params& params, Bf16* partial_out, float* partial_lse,
                         cudaStream_t stream) {
  return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
      kTilePairs, kGroupedHeadDim, kGroupedHeadDim, flashinfer::PosEncodingMode::kNone, false,
      flashinfer::MaskMode::kCausal, Variant>(params, partial_out, partial_lse, false, stream);
}

}  // namespace

bool takes_grouped(const AttentionParams& params) {
  const KvCacheView& cache = params.cache;
  return params.tables->grouped() != nullptr && params.q.dtype == DType::kBF16 &&
         params.out.dtype == DType::kBF16 && cache.dtype == DType::kBF16 &&
         cache.v_offset % 8 == 0 && cache.row_dim % 8 == 0 && params.q.stride % 8 == 0 &&
         params.out.stride == params.out.columns && is_aligned(params.q.data) &&
         is_aligned(params.out.data) && is_aligned(cache.data);
}

void grouped_attention(Stream& stream, const AttentionParams& from) {
  const GroupedSchedule& schedule = *from.tables->grouped();
  const Params params = params_of(from);
  Bf16* partial_out = nullptr;
  float* partial_lse = nullptr;
  if (schedule.is_split) {
    const OpContext& context = stream.context();
    const int64_t pairs = schedule.partial_rows * from.num_heads;
    partial_out = context.workspace<Bf16>(pairs * kGroupedHeadDim).data();
    partial_lse =
        context.workspace<float>(pairs, pairs * kGroupedHeadDim * int64_t{sizeof(Bf16)}).data();
  }
  launch(stream, [&](cudaStream_t handle) {
    switch (schedule.tile_pairs) {
      case 16:
        return launch_tiles<16>(params, partial_out, partial_lse, handle);
      case 64:
        return launch_tiles<64>(params, partial_out, partial_lse, handle);
      default:
        return launch_tiles<128>(params, partial_out, partial_lse, handle);
    }
  });
  // After the merge, which writes zeros for the rows of prompts.
  if (from.tables->prompts() != nullptr) prompt_attention(stream, from);
  to_natural_lse(stream, from.tables->batch(), from.num_heads, from.lse);
}

void to_natural_lse(Stream& stream, const AttentionBatch& batch, int num_heads, float* lse) {
  if (lse == nullptr) return;
  const dim3 grid(batch.num_sequences, 4);
  launch_kernel(stream, {grid, 256}, natural_lse_kernel, batch, num_heads, lse);
  check_launch(stream, "attention: its sums");
}

}  // namespace wideep::kernels::adapters
