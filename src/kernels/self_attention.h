// Attention of a batch's rows over the rows of their own sequences in the same batch, with a key
// and a value of their own for each head: latent attention before absorption, for prompts that have
// no tokens in the cache. A third of the work of absorbed attention.
#pragma once

#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/attention.h"

namespace wideep::kernels {

// Row i of a sequence sees the rows up to i of it. CPU: kF32. CUDA: where tables->self() is there,
// which says that all of this is kBF16 and of the right dimensions.
struct SelfAttentionParams {
  ConstMatrixView q;  // [rows, num_heads * k_dim]
  ConstMatrixView k;  // [rows, num_heads * k_dim]
  // [rows, ...]: the value of head h begins at column h * v_step, so that it may lie between
  // others.
  ConstMatrixView v;
  int64_t v_step = 0;
  int num_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  std::span<const AttentionSequence> sequences;  // CPU; positions and pages are not read
  const AttentionTables* tables = nullptr;       // CUDA
  float scale = 1;
  MatrixView out;        // [rows, num_heads * v_dim], of the sequences' rows
  float* lse = nullptr;  // [rows, num_heads] as in AttentionParams; or null
};
void self_attention(Stream& stream, const SelfAttentionParams& params);

}  // namespace wideep::kernels
