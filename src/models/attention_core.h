// The part of attention that all families share: new keys into the cache, and attention of the
// queries over it, with context parallelism or without.
#pragma once

#include "base/status.h"
#include "base/tensor.h"
#include "kernels/attention.h"
#include "models/forward_pass.h"

namespace wideep::models {

struct AttendParams {
  ConstMatrixView q;   // [own rows, num_heads * k_dim]
  ConstMatrixView kv;  // [own rows, kv_heads * row_dim]: the rows' new cache entries
  int num_heads = 0;
  float scale = 1;
  int chunk_size = 0;
  MatrixView out;  // [own rows, num_heads * v_dim]
};

// Collective over the cp group.
Status attend(const ForwardPass& pass, const kernels::KvCacheView& cache,
              const AttendParams& params);

// Most that attend() takes of the arena.
int64_t attend_scratch_bytes(const kernels::KvCacheView& cache, int num_heads, int max_rows,
                             int cp);

}  // namespace wideep::models
