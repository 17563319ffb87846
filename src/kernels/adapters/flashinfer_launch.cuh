// What the sources of FlashInfer's kernels share.
#pragma once

#include <exception>
#include <string>

#include "kernels/adapters/flashinfer.h"
#include "kernels/cuda_device.cuh"

namespace wideep::kernels::adapters {

inline bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Calls body(stream) -> cudaError_t; its errors and exceptions become the stream's.
template <typename Body>
void launch(Stream& stream, const Body& body) {
  cudaError_t error = cudaErrorUnknown;
  try {
    error = body(stream_of(stream));
  } catch (const std::exception& exception) {
    return stream.fail(Status::unavailable(std::string("attention: ") + exception.what()));
  }
  if (error != cudaSuccess) {
    stream.fail(Status::unavailable(std::string("CUDA: attention: ") + cudaGetErrorString(error)));
  }
  check_launch(stream, "attention");
}

template <typename Params>
void set_prompt_schedule(const PromptSchedule& schedule, Params& params) {
  params.work_indptr = schedule.block_begin;
  params.qo_tile_indices = schedule.tile;
  params.head_indices = schedule.head;
  params.qo_indptr = schedule.first_row;
  params.kv_indptr = schedule.first_key;
  params.qo_lens = schedule.num_rows;
  params.kv_lens = schedule.keys;
  params.batch_indices = schedule.sequence;
}

// The kernels' sums are to base 2. `lse` may be null.
void to_natural_lse(Stream& stream, const AttentionBatch& batch, int num_heads, float* lse);

}  // namespace wideep::kernels::adapters
