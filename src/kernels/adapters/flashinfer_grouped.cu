// Grouped-query attention of heads of 128 by FlashInfer's kernel for prefill, which serves decode
// as well: the query heads of a group fill the rows of a matrix product. It reads GroupedSchedule's
// tables as its plan; where that is split, a second kernel merges the chunks.
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>

#include "kernels/adapters/flashinfer.h"
#include "kernels/cuda_device.cuh"

namespace wideep::kernels::adapters {
namespace {

using Bf16 = __nv_bfloat16;
using Params = flashinfer::BatchPrefillPagedParams<Bf16, Bf16, Bf16, int>;
using Variant = flashinfer::DefaultAttention<false, false, false, false>;

bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// The kernels' sums are to base 2, and stand at their own least value where no key was seen.
__global__ void natural_lse_kernel(float* lse, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float value = lse[i];
  lse[i] = value <= -flashinfer::math::inf / 2 ? -INFINITY : value * flashinfer::math::loge2;
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
cudaError_t launch(const Params& params, Bf16* partial_out, float* partial_lse,
                   cudaStream_t stream) {
  return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
      kTilePairs, kGroupedHeadDim, kGroupedHeadDim, flashinfer::PosEncodingMode::kNone, false,
      flashinfer::MaskMode::kCausal, Variant>(params, partial_out, partial_lse, false, stream);
}

}  // namespace

bool takes_grouped(const AttentionParams& params) {
  const KvCacheView& cache = params.cache;
  return params.tables->grouped() != nullptr &&
         (params.chunk_size == 0 || params.tables->batch().most_keys <= params.chunk_size) &&
         params.q.dtype == DType::kBF16 && params.out.dtype == DType::kBF16 &&
         cache.dtype == DType::kBF16 && cache.v_offset % 8 == 0 && cache.row_dim % 8 == 0 &&
         params.q.stride % 8 == 0 && params.out.stride == params.out.columns &&
         is_aligned(params.q.data) && is_aligned(params.out.data) && is_aligned(cache.data);
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
  const cudaStream_t handle = stream_of(stream);
  cudaError_t error = cudaErrorUnknown;
  try {
    switch (schedule.tile_pairs) {
      case 16:
        error = launch<16>(params, partial_out, partial_lse, handle);
        break;
      case 64:
        error = launch<64>(params, partial_out, partial_lse, handle);
        break;
      default:
        error = launch<128>(params, partial_out, partial_lse, handle);
    }
  } catch (const std::exception& exception) {
    return stream.fail(Status::unavailable(std::string("attention: ") + exception.what()));
  }
  if (error != cudaSuccess) {
    return stream.fail(
        Status::unavailable(std::string("CUDA: attention: ") + cudaGetErrorString(error)));
  }
  if (from.lse != nullptr) {
    const int64_t count = int64_t{from.tables->batch().num_rows} * from.num_heads;
    natural_lse_kernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, handle>>>(from.lse,
                                                                                       count);
  }
  check_launch(stream, "attention");
}

}  // namespace wideep::kernels::adapters
