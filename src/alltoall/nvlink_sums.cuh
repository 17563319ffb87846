// The sums of combine, in the orders that alltoall.h promises: products and sums in fp32, each
// rounded, as kernels::combine_rows makes them. A thread has kVectors vectors of 8 columns.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

template <int kVectors>
struct Sum {
  float column[kVectors][8] = {};

  __device__ void add(int v, const uint4& row, float weight) {
    const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_bf16(words[i]);
      column[v][2 * i] = __fadd_rn(column[v][2 * i], __fmul_rn(weight, pair.x));
      column[v][2 * i + 1] = __fadd_rn(column[v][2 * i + 1], __fmul_rn(weight, pair.y));
    }
  }
  __device__ uint4 rounded(int v) const {
    const float* c = column[v];
    return {pack_bf16(c[0], c[1]), pack_bf16(c[2], c[3]), pack_bf16(c[4], c[5]),
            pack_bf16(c[6], c[7])};
  }
};

// The ranks that a token gets rows back from, spread over the lanes of a warp: lane i has the i-th
// by rank (reduced) or the k = i-th pair's (exact); -1: none.
struct Returns {
  int count = 0;      // of lanes that may have one
  int rank = -1;      // this lane's
  float weight = 1;   // what its row is multiplied by
  int own_copy = -1;  // exact: which copy of this rank's own row it is
};

// A token's pair, as it was loaded; lane k has the k-th.
struct TokenPair {
  int slot = -1;
  float weight = 1;
};

__device__ inline TokenPair load_pair(const CombineArgs& a, int token, int end) {
  TokenPair pair;
  if (token >= end || lane_id() >= a.top_k) return pair;
  const int64_t index = static_cast<int64_t>(token) * a.top_k + lane_id();
  pair.slot = a.slots[index];
  if (a.group.shape.exact && a.weights != nullptr) pair.weight = a.weights[index];
  return pair;
}

__device__ inline Returns make_returns(const CombineArgs& a, const TokenPair& pair) {
  const GroupView& g = a.group;
  const int lane = lane_id();
  Returns returns;
  returns.weight = pair.weight;
  int rank = pair.slot < 0 ? -1 : pair.slot / g.shape.slots_per_rank();
  if (rank >= 0 && !is_active(rank)) rank = -1;
  if (a.group.shape.exact) {
    const uint32_t own = __ballot_sync(kFullWarp, rank == g.rank);
    if (rank == g.rank) returns.own_copy = __popc(own & ((1U << lane) - 1));
    returns.rank = rank;
    returns.count = a.top_k;
    return returns;
  }
  // The smallest rank above the last one, until there is none.
  int last = -1;
  while (returns.count < a.top_k) {
    const uint32_t candidate = rank > last ? static_cast<uint32_t>(rank) : 0xffffU;
    const uint32_t next = __reduce_min_sync(kFullWarp, candidate);
    if (next == 0xffffU) break;
    last = static_cast<int>(next);
    if (lane == returns.count) returns.rank = last;
    ++returns.count;
  }
  return returns;
}

}  // namespace wideep::alltoall::device
