#include "kernels/self_attention.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cuda_ops.h"

namespace wideep::kernels {
namespace {

void check_params(const SelfAttentionParams& params) {
  const int64_t rows = params.q.rows;
  CHECK(params.k.rows == rows && params.v.rows == rows && params.out.rows == rows);
  CHECK(params.q.columns == int64_t{params.num_heads} * params.k_dim);
  CHECK(params.k.columns == params.q.columns && params.v_step >= params.v_dim);
  CHECK(params.v.columns >= (params.num_heads - 1) * params.v_step + params.v_dim);
  CHECK(params.out.columns == int64_t{params.num_heads} * params.v_dim);
}

}  // namespace

// As attention over a cache whose one page is the sequence: [rows, heads, key | value].
void self_attention(Stream& stream, const SelfAttentionParams& params) {
  check_params(params);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::self_attention(stream, params);
  }
  CHECK(params.k.dtype == DType::kF32 && params.v.dtype == DType::kF32);
  const int row_dim = params.k_dim + params.v_dim;
  const int64_t token = int64_t{params.num_heads} * row_dim;
  std::vector<float> cache;
  const int page = 0;
  for (const AttentionSequence& sequence : params.sequences) {
    if (sequence.num_rows == 0) continue;
    cache.resize(sequence.num_rows * token);
    for (int i = 0; i < sequence.num_rows; ++i) {
      const auto* k = params.k.row<float>(sequence.first_row + i);
      const auto* v = params.v.row<float>(sequence.first_row + i);
      for (int head = 0; head < params.num_heads; ++head) {
        float* to = cache.data() + i * token + int64_t{head} * row_dim;
        std::copy_n(k + int64_t{head} * params.k_dim, params.k_dim, to);
        std::copy_n(v + head * params.v_step, params.v_dim, to + params.k_dim);
      }
    }
    AttentionParams attend;
    attend.q = params.q;
    attend.num_heads = params.num_heads;
    attend.cache = {reinterpret_cast<std::byte*>(cache.data()),
                    DType::kF32,
                    sequence.num_rows,
                    params.num_heads,
                    row_dim,
                    params.k_dim,
                    params.k_dim,
                    params.v_dim};
    const AttentionSequence whole = {sequence.first_row, sequence.num_rows, 0, &page};
    attend.sequences = {&whole, 1};
    attend.scale = params.scale;
    attend.out = params.out;
    attend.lse = params.lse;
    attention(stream, attend);
  }
}

}  // namespace wideep::kernels
