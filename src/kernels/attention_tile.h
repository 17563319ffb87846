// What the instruction sets' code of attention works on: see attention_cpu.cc.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace wideep::kernels {

inline constexpr int kAttentionTileRows = 16;

// A few query rows (positions and heads) of one sequence that share a KV head, and with it every
// load of a key.
struct AttentionTile {
  int rows = 0;
  const float* q[kAttentionTileRows];  // [k_dim]
  float* out[kAttentionTileRows];      // [v_dim]
  float* lse[kAttentionTileRows];      // one element, or null
  // Row i sees the positions [first_key[i], end_key[i]).
  int first_key[kAttentionTileRows];
  int end_key[kAttentionTileRows];
  const KvCacheView* cache = nullptr;
  const int* pages = nullptr;
  int kv_head = 0;
  int cp_size = 1;
  int cp_rank = 0;
  float scale = 1;
};

}  // namespace wideep::kernels
